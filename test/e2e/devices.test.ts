import { createHash, randomBytes } from "node:crypto"
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { writeInitramfs } from "@ts-vmm/guest"
import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { ConsoleDevice } from "@ts-vmm/virtio-devices/console"
import { RngDevice } from "@ts-vmm/virtio-devices/rng"
import { afterAll, beforeAll, expect, test } from "vitest"
import { hypervisorUnderTest, POWERED_OFF } from "./under-test.js"

const MIB = 1024 * 1024
let scratch: string
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "tsv-dev-"))
})
afterAll(() => rmSync(scratch, { recursive: true }))

/** Boots Linux with `devices` and busybox, runs `script` as its init, and returns what it wrote to the console. */
async function boot(devices: VirtioDevice[], script: string): Promise<string> {
  const directory = mkdtempSync(join(scratch, "m-"))
  const initramfs = join(directory, "initramfs")
  const init = `#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n${script}\nsync; poweroff -f\n`
  writeFileSync(
    initramfs,
    writeInitramfs([
      ...["bin", "dev", "proc", "sys", "mnt"].map(path => ({
        type: "directory" as const,
        path,
        mode: 0o755,
      })),
      { type: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
      { type: "file", path: "bin/busybox", mode: 0o755, data: readFileSync("/bin/busybox") },
      { type: "file", path: "init", mode: 0o755, data: Buffer.from(init) },
    ]),
  )
  const errors: Error[] = []
  const machine = await hypervisorUnderTest().start({
    directory,
    initramfs,
    memoryMiB: 128,
    cpus: 1,
    devices,
    kernelArguments: [],
    onDeviceError: error => errors.push(error),
  })
  let output = ""
  machine.onConsole(chunk => {
    output += chunk
  })
  const exit = await machine.exited
  expect(errors).toEqual([])
  expect(exit.how).toBe(POWERED_OFF)
  return output
}

test("block: what the guest writes is in the file, what is in the file the guest reads", async () => {
  const path = join(scratch, "disk")
  const before = randomBytes(8 * MIB)
  writeFileSync(path, before)
  truncateSync(path, 64 * MIB)
  const script = `
    dd if=/dev/vda bs=1M count=8 2>/dev/null | sha256sum
    dd if=/dev/urandom of=/new bs=1M count=16 2>/dev/null
    dd if=/new of=/dev/vda bs=64k seek=128 conv=fsync 2>/dev/null
    sha256sum < /new
    cat /sys/block/vda/size; echo $(cat /sys/block/vda/serial)`
  const disk = new BlockDevice(openFileBackend(path, { readOnly: false }), { serial: "disk-0" })
  const lines = (await boot([disk], script)).split("\n").map(line => line.trim().replace(/ +-$/, ""))
  const file = readFileSync(path)
  expect(lines).toContain(sha256(before))
  expect(lines).toContain(sha256(file.subarray(8 * MIB, 24 * MIB)))
  expect(lines).toContain(String((64 * MIB) / 512))
  expect(lines).toContain("disk-0")
})

test("B4: a read-only disk refuses writes in the guest, and the file stays as it was", async () => {
  const path = join(scratch, "ro-disk")
  const content = randomBytes(MIB)
  writeFileSync(path, content)
  const disk = new BlockDevice(openFileBackend(path, { readOnly: true }))
  const output = await boot(
    [disk],
    "cat /sys/block/vda/ro; dd if=/dev/zero of=/dev/vda bs=4k count=1 2>&1 | tail -1",
  )
  expect(output).toMatch(/^1\r?$/m)
  expect(readFileSync(path).equals(content)).toBe(true)
})

test("entropy: the guest's hardware generator is ours", async () => {
  let handedOut = 0
  const rng = new RngDevice({
    fill(into) {
      handedOut += into.length
      into.fill(0xa5)
    },
  })
  const script =
    "cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=64 count=1 2>/dev/null | od -An -tx1 | head -1"
  const output = await boot([rng], script)
  expect(output).toContain("virtio_rng.0")
  expect(output).toContain("a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5")
  expect(handedOut).toBeGreaterThanOrEqual(64)
})

test("console: several ports, both ways, with the size of the terminal", async () => {
  const device = new ConsoleDevice({ ports: [{}, { name: "data" }] })
  const [terminal, data] = device.ports
  const shown: Buffer[] = []
  const received: Buffer[] = []
  terminal.attach({ write: bytes => shown.push(Buffer.from(bytes)) > 0 })
  terminal.resize({ cols: 111, rows: 44 })
  const payload = randomBytes(48 * 1024)
  let left = payload.length
  data?.attach({
    write: bytes => {
      left -= bytes.length
      // The guest waits for it: a machine that ends takes what is still on its way to us with it.
      if (left === 0) data.send(Buffer.from("."))
      return received.push(Buffer.from(bytes)) > 0
    },
  })
  if (data) data.onGuestOpen = open => open && data.send(payload)
  // The kernel sets the size some time after the terminal is first opened, so it stays open.
  const script = `
    until [ -e /dev/vport0p1 ]; do sleep 0.05; done
    exec 3<> /dev/hvc0
    until stty size <&3 2> /dev/null | grep -q '44 111'; do sleep 0.05; done
    (stty size; echo from the guest) <&3 >&3
    exec 4<> /dev/vport0p1
    head -c ${payload.length} <&4 > /got
    cat /got >&4
    head -c 1 <&4 > /dev/null`
  await boot([device], script)
  expect(Buffer.concat(shown).toString().replaceAll("\r", "")).toBe("44 111\nfrom the guest\n")
  expect(sha256(Buffer.concat(received))).toBe(sha256(payload))
})

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex")
}
