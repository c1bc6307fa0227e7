// The same sandbox on other machines: Debian's stock kernel, several processors, little and much memory. The whole
// end-to-end suite runs on the default machine (project kvm-e2e); here each variant shows what could differ.
import { createHash, randomBytes } from "node:crypto"
import { afterAll, describe, expect, test } from "vitest"
import { Workplace } from "../e2e/cli.js"
import { KVM_START_TIMEOUT } from "../e2e/under-test.js"
import { busyboxImage } from "../fixtures/images.js"
import { stockGuest } from "../fixtures/stock-guest.js"

const place = new Workplace()
const image = `oci:${busyboxImage()}`

afterAll(() => {
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

/** Says what the guest is, passes stdin through its disk top, and ends with a code of its own. */
const SCRIPT = `
  cat > /big
  sha256sum < /big | cut -c1-64
  nproc
  awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo
  uname -r
  exit 7`

interface Variant {
  readonly kernel: "trimmed" | "Debian's"
  readonly cpus: number
  readonly memoryMiB: number
}

async function run({ kernel, cpus, memoryMiB }: Variant, input: Buffer) {
  const stock = kernel === "trimmed" ? undefined : stockGuest()
  const boot = stock ? ["--kernel", stock.kernel, "--initramfs", stock.initramfs] : []
  const machine = ["--hypervisor", "kvm", "--cpus", String(cpus), "--memory", String(memoryMiB), ...boot]
  const options = [...machine, "--start-timeout", String(KVM_START_TIMEOUT)]
  const result = await place.run(["run", "--rm", "-i", ...options, image, "sh", "-c", SCRIPT], { input })
  const [digest, processors, memory, release] = result.stdout.toString().split("\n")
  return { ...result, digest, processors: Number(processors), memory: Number(memory), release }
}

describe("a sandbox on KVM", () => {
  test.each<Variant>([
    { kernel: "trimmed", cpus: 4, memoryMiB: 512 },
    { kernel: "trimmed", cpus: 1, memoryMiB: 128 },
    { kernel: "trimmed", cpus: 4, memoryMiB: 6144 },
    { kernel: "Debian's", cpus: 1, memoryMiB: 512 },
    { kernel: "Debian's", cpus: 4, memoryMiB: 6144 },
  ])("$kernel kernel, $cpus vCPUs, $memoryMiB MiB", async variant => {
    const input = randomBytes(4 * 1024 * 1024)
    const seen = await run(variant, input)
    expect(seen.stderr).toBe("")
    expect(seen.exitCode).toBe(7)
    expect(seen.digest).toBe(createHash("sha256").update(input).digest("hex"))
    expect(seen.processors).toBe(variant.cpus)
    expect(seen.memory).toBeGreaterThan(variant.memoryMiB * 0.85 - 40)
    expect(seen.memory).toBeLessThanOrEqual(variant.memoryMiB)
    expect(seen.release).toMatch(variant.kernel === "trimmed" ? /^7\.2/ : /^6\.1.*cloud/)
  })
})
