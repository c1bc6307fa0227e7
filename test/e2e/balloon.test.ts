import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { writeInitramfs } from "@ts-vmm/guest"
import type { Machine } from "@ts-vmm/runtime"
import { BalloonDevice, type BalloonOptions } from "@ts-vmm/virtio-devices/balloon"
import { ConsoleDevice } from "@ts-vmm/virtio-devices/console"
import { afterEach, beforeEach, expect, test } from "vitest"
import { hostBytes as hostBytesOf } from "./host-memory.js"
import { HYPERVISOR, hypervisorUnderTest, KVM_START_TIMEOUT } from "./under-test.js"

const MIB = 1024 * 1024
const MEMORY_MIB = 256
/** What the balloon shall take. */
const TARGET = 128 * MIB
/** The guest writes at least this much. */
const WRITTEN = 192 * MIB
/** How long the guest may take for what it is asked: a bound for a test that fails, not what is tested. */
const PATIENCE_MS = HYPERVISOR === "kvm" ? KVM_START_TIMEOUT * 1000 : 60_000

let directory: string
let machine: Machine | undefined
const errors: Error[] = []
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "tsv-balloon-"))
})
afterEach(async () => {
  await machine?.kill()
  machine = undefined
  rmSync(directory, { recursive: true })
  expect(errors.splice(0)).toEqual([])
})

interface Guest {
  readonly balloon: BalloonDevice
  readonly guest: Machine
  /** Bytes of host memory that its RAM took when it was full. */
  readonly full: number
}

/** Boots Linux with a balloon, whose init writes to nearly all of its memory and, when it was looked at, lets go of it again. */
async function bootFilled(options: BalloonOptions): Promise<Guest> {
  const init = `#!/bin/busybox sh
    /bin/busybox --install -s /bin; export PATH=/bin
    mount -t proc proc /proc; mount -t devtmpfs dev /dev; mount -t tmpfs -o size=100% tmpfs /mnt
    free=$(awk '/MemFree/ { print $2 }' /proc/meminfo)
    dd if=/dev/zero of=/mnt/all bs=1M count=$((free / 1024 - 16)) 2> /dev/null
    until true < /dev/hvc0; do sleep 0.05; done 2> /dev/null
    exec 3< /dev/hvc0
    echo all is written
    read -r go <&3
    rm /mnt/all
    echo all is free
    while :; do sleep 1; done\n`
  const initramfs = join(directory, "initramfs")
  writeFileSync(
    initramfs,
    writeInitramfs([
      ...["bin", "dev", "proc", "mnt"].map(path => ({ type: "directory" as const, path, mode: 0o755 })),
      { type: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
      { type: "file", path: "bin/busybox", mode: 0o755, data: readFileSync("/bin/busybox") },
      { type: "file", path: "init", mode: 0o755, data: Buffer.from(init) },
    ]),
  )
  const balloon = new BalloonDevice(options)
  const terminal = new ConsoleDevice()
  const guest = await hypervisorUnderTest().start({
    directory,
    initramfs,
    memoryMiB: MEMORY_MIB,
    cpus: 1,
    devices: [balloon, terminal],
    kernelArguments: [],
    onDeviceError: error => errors.push(error),
  })
  machine = guest
  let output = ""
  guest.onConsole(chunk => {
    output += chunk
  })
  await untilSaid("all is written")
  const full = hostBytes(guest)
  expect(full).toBeGreaterThanOrEqual(WRITTEN)
  terminal.ports[0].send(Buffer.from("\n"))
  await untilSaid("all is free")
  return { balloon, guest, full }

  function untilSaid(words: string): Promise<void> {
    return until(
      () => output.includes(words),
      () => `"${words}" in:\n${output}`,
    )
  }
}

async function until(condition: () => boolean | Promise<boolean>, what: () => string): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what()}`)
    await setTimeout(10)
  }
}

/** Bytes of host memory that the guest's RAM takes. */
function hostBytes({ pid }: Machine): number {
  return hostBytesOf(pid, (MEMORY_MIB - 16) * MIB)
}

test("inflated memory comes back to the host, and deflated memory works again", async () => {
  const { balloon, guest, full } = await bootFilled({ deflateOnOom: true })
  balloon.setTarget(TARGET)
  await until(
    () => balloon.actual === TARGET,
    () => `the balloon, which has ${balloon.actual} bytes`,
  )
  expect(full - hostBytes(guest)).toBeGreaterThanOrEqual(0.9 * TARGET)
  expect(balloon.counters).toMatchObject({ failures: 0, ignoredBytes: 0 })
  const { freeBytes = 0 } = await balloon.statistics({ timeoutMs: PATIENCE_MS })
  balloon.setTarget(0)
  await until(
    () => balloon.actual === 0,
    () => "an empty balloon",
  )
  const after = await balloon.statistics({ timeoutMs: PATIENCE_MS })
  expect(after.freeBytes).toBeGreaterThanOrEqual(freeBytes + 0.9 * TARGET)
})

test("memory that the guest reports as free comes back by itself", async () => {
  const { balloon, guest, full } = await bootFilled({ reporting: true })
  await until(
    () => full - hostBytes(guest) >= 0.9 * WRITTEN,
    () => `reports, ${balloon.counters.freedBytes} bytes so far of ${full}, now ${hostBytes(guest)}`,
  )
  expect(balloon.counters).toMatchObject({ failures: 0, ignoredBytes: 0 })
})

test("hints name the guest's free memory, once for each round", async () => {
  const { balloon } = await bootFilled({ hinting: true })
  const { freeBytes = 0 } = await balloon.statistics({ timeoutMs: PATIENCE_MS })
  for (let round = 0; round < 3; round++) {
    const pages = new Set<number>()
    const onPages = (start: number, size: number) => {
      for (let at = start; at < start + size; at += 4096) pages.add(at)
    }
    const hinted = await balloon.hintFreePages({ onPages, timeoutMs: PATIENCE_MS })
    expect(pages.size * 4096).toBe(hinted)
    expect(hinted).toBeGreaterThan(0.8 * freeBytes)
    expect(hinted).toBeLessThanOrEqual(MEMORY_MIB * MIB)
    balloon.releaseHints()
    // Linux looks at its last command only: one that came before it has let go would find nothing free.
    await until(
      async () => ((await balloon.statistics({ timeoutMs: PATIENCE_MS })).freeBytes ?? 0) >= 0.9 * freeBytes,
      () => "the guest to have its pages back",
    )
  }
})
