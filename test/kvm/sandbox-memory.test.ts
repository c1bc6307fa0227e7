// Memory of a running guest on KVM: more of it and less of it (virtio-mem), and a target (balloon); test/e2e has the rest.
import { createHash, randomBytes } from "node:crypto"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, expect, test } from "vitest"
import { TEST_IMAGE_DIR } from "../e2e/cli.js"
import { KVM_START_TIMEOUT, PATIENCE_MS } from "../e2e/under-test.js"
import { busyboxImage } from "../fixtures/images.js"

const MIB = 1024 * 1024
const BOOT_MIB = 192
const MAX_MIB = BOOT_MIB + 256
const WAIT = { timeoutMs: KVM_START_TIMEOUT * 1000 }

const stateDir = mkdtempSync(join(tmpdir(), "tsv-"))
const paths = { stateDir, imageDir: TEST_IMAGE_DIR }
afterAll(() => rmSync(stateDir, { recursive: true }))

const create = (options: { memoryMaxMiB?: number; memoryTargetMiB?: number }) =>
  Sandbox.create({
    ...{ image: `oci:${busyboxImage()}`, paths, hypervisor: "kvm", memoryMiB: BOOT_MIB },
    ...{ ...WAIT, agentTimeoutMs: WAIT.timeoutMs },
    ...options,
  })

async function totalMiB(sandbox: Sandbox): Promise<number> {
  const { stdout } = await sandbox.shell("awk '/MemTotal/ { print $2 }' /proc/meminfo")
  return Number(stdout) / 1024
}

test("a guest is given memory, works in it, and gives it back to the host", async () => {
  await using sandbox = await create({ memoryMaxMiB: MAX_MIB })
  const { memory } = sandbox
  const before = await totalMiB(sandbox)
  await memory.resize(MAX_MIB, WAIT)
  expect(memory).toMatchObject({ sizeMiB: MAX_MIB, maxMiB: MAX_MIB, targetMiB: MAX_MIB })
  expect(await totalMiB(sandbox)).toBeGreaterThan(before + 240)

  // One buffer, larger than all that there was.
  const size = BOOT_MIB + 64
  expect(
    (await sandbox.exec("dd", ["if=/dev/zero", "of=/dev/null", `bs=${size}M`, "count=1"])).exitCode,
  ).toBe(0)
  // New memory holds what devices write to: files, and what comes over vsock.
  const input = randomBytes(16 * MIB)
  const { stdout } = await sandbox.shell("cat > /f; sha256sum < /f | cut -c1-64; rm /f", { input })
  expect(stdout.trim()).toBe(createHash("sha256").update(input).digest("hex"))
  const full = taken(256)

  await memory.resize(BOOT_MIB, WAIT)
  expect(memory.sizeMiB).toBe(BOOT_MIB)
  expect(await totalMiB(sandbox)).toBeLessThan(before + 16)
  console.log(
    `virtio-mem: the 256 MiB above took ${full} MiB of the host after use, ${taken(256)} MiB unplugged`,
  )
  expect(full).toBeGreaterThan(0)
  expect(taken(256)).toBe(0)
})

test("a target takes memory from a guest", async () => {
  await using sandbox = await create({ memoryTargetMiB: 128 })
  const { memory } = sandbox
  const deadline = performance.now() + PATIENCE_MS
  while (memory.usableMiB !== 128 && performance.now() < deadline) await memory.statistics(WAIT)
  expect(memory.usableMiB).toBe(128)
})

/** MiB of the host that the region of guest RAM of this size takes: on KVM it is memory of this process. */
function taken(sizeMiB: number): number {
  const mappings = readFileSync("/proc/self/smaps", "latin1").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
  const kilobytes = (text: string, name: string) =>
    Number(new RegExp(`^${name}: +(\\d+) kB`, "m").exec(text)?.[1])
  const region = mappings.find(one => kilobytes(one, "Size") === sizeMiB * 1024)
  if (!region) throw new Error(`there is no mapping of ${sizeMiB} MiB`)
  return Math.round(kilobytes(region, "Rss") / 1024)
}
