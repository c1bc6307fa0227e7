// Devices that come and go while the guest runs, and devices that another process serves, in the machine itself.
import { type ChildProcess, spawn } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { BlockDevice, memoryBackend } from "@ts-vmm/virtio-devices/block"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { serveVhostUser, VhostUserDevice } from "@ts-vmm/virtio-devices/vhost-user"
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest"
import { driver, type GuestShell, startShell } from "./guest-shell.js"

const MIB = 2 ** 20
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex")
const closers: (() => Promise<void> | void)[] = []
let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "hotplug-"))
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})
afterAll(() => rmSync(folder, { recursive: true }))

async function boot(...[config]: Parameters<typeof startShell>): Promise<GuestShell> {
  const shell = await startShell(config)
  closers.push(() => shell.dispose())
  return shell
}

function disk(content: Uint8Array): BlockDevice {
  const backend = memoryBackend(content.length)
  backend.bytes.set(content)
  closers.push(() => backend.close())
  return new BlockDevice(backend)
}

describe.each(["cmdline", "acpi"] as const)("slots that the guest knows by %s", description => {
  test("take a disk, a folder, another disk, and the guest sees each", async () => {
    const shell = await boot({ description, emptySlots: 1 })
    const { machine, run } = shell
    for (let round = 0; round < 2; round++) {
      const content = randomBytes(MIB)
      const device = disk(content)
      const startedAt = performance.now()
      const address = machine.plug(device)
      expect(await run(`${driver("bind", address)}; ls /sys/block | grep vd`)).toBe("vda")
      console.info(`plug to /dev/vda, ${description}: ${Math.round(performance.now() - startedAt)} ms`)
      expect(await run("sha256sum /dev/vda | cut -c1-64")).toBe(sha256(content))
      expect(() => machine.plug(disk(content))).toThrow(expect.objectContaining({ code: "exhausted" }))
      expect(await run(`${driver("unbind", address)}; ls /sys/block | grep -c vd`)).toBe("0")
      await machine.unplug(device)
      await expect(machine.unplug(device)).rejects.toThrow(expect.objectContaining({ code: "not-found" }))

      const shared = join(folder, `${description}${round}`)
      mkdirSync(shared)
      writeFileSync(join(shared, "name"), `round ${round}`)
      const fs = new FsDevice(shared, { tag: "shared" })
      closers.push(() => fs.close())
      const at = machine.plug(fs)
      expect(await run(`${driver("bind", at)}; mount -t virtiofs shared /mnt && cat /mnt/name`)).toBe(
        `round ${round}`,
      )
      expect(await run(`umount /mnt; ${driver("unbind", at)}; echo gone`)).toBe("gone")
      await machine.unplug(fs)
    }
  })

  test("a device that is taken while its driver has it leaves the machine whole", async () => {
    const { machine, run } = await boot({ description, emptySlots: 1 })
    const device = disk(randomBytes(MIB))
    const address = machine.plug(device)
    expect(await run(`${driver("bind", address)}; ls /sys/block | grep vd`)).toBe("vda")
    await machine.unplug(device)
    expect(machine.state).toBe("running")
    expect(await run("echo alive")).toBe("alive")
  })
})

describe("a device that another process serves", () => {
  test("our own back end: read, written, gone under load, back", async () => {
    const socketPath = join(folder, "own.sock")
    const backend = memoryBackend(16 * MIB)
    const content = randomBytes(16 * MIB)
    backend.bytes.set(content)
    closers.push(() => backend.close())
    let server = serveVhostUser(new BlockDevice(backend), { socketPath })
    closers.push(() => server.close())
    const device = await VhostUserDevice.connect({ kind: "blk", socketPath })
    const { run } = await boot({ devices: [device] })
    expect(await run("sha256sum /dev/vda | cut -c1-64")).toBe(sha256(content))
    const reading = run("echo 3 > /proc/sys/vm/drop_caches; sha256sum /dev/vda | cut -c1-64")
    await setTimeout(100)
    server.close()
    await setTimeout(100)
    server = serveVhostUser(new BlockDevice(backend), { socketPath })
    expect(await reading).toBe(sha256(content))
    expect(await run("echo written | dd of=/dev/vda conv=fsync 2>/dev/null; head -n 1 /dev/vda")).toBe(
      "written",
    )
    expect(Buffer.from(backend.bytes.subarray(0, 8)).toString()).toBe("written\n")
  })

  test("qemu-storage-daemon: plugged, read with equal bytes, killed, back, unplugged", async ({ skip }) => {
    const program = "/usr/bin/qemu-storage-daemon"
    if (!existsSync(program)) skip("qemu-storage-daemon is not installed (qemu-system-common)")
    const image = join(folder, "disk.img")
    const socketPath = join(folder, "qsd.sock")
    const content = randomBytes(8 * MIB)
    writeFileSync(image, content)
    const start = () => {
      rmSync(socketPath, { force: true })
      return daemon(program, socketPath, [
        ...["--blockdev", `driver=file,node-name=disk,filename=${image}`],
        ...[
          "--export",
          `type=vhost-user-blk,id=x,node-name=disk,writable=on,addr.type=unix,addr.path=${socketPath}`,
        ],
      ])
    }
    const first = await start()
    const device = await VhostUserDevice.connect({ kind: "blk", socketPath })
    const { machine, run } = await boot({ emptySlots: 1, sharedMemory: true })
    const address = machine.plug(device)
    expect(await run(`${driver("bind", address)}; sha256sum /dev/vda | cut -c1-64`)).toBe(sha256(content))
    first.kill("SIGKILL")
    await ended(first)
    const reading = run("echo 3 > /proc/sys/vm/drop_caches; sha256sum /dev/vda | cut -c1-64")
    await start()
    expect(await reading).toBe(sha256(content))
    expect(await run(`${driver("unbind", address)}; echo gone`)).toBe("gone")
    await machine.unplug(device)
  })

  test("virtiofsd: a folder, read and written", async ({ skip }) => {
    const program = "/usr/lib/qemu/virtiofsd"
    if (!existsSync(program)) skip("virtiofsd is not installed (qemu-system-common)")
    const shared = join(folder, "virtiofsd")
    const socketPath = join(folder, "virtiofsd.sock")
    mkdirSync(shared)
    writeFileSync(join(shared, "name"), "from the host")
    await daemon(program, socketPath, [
      `--socket-path=${socketPath}`,
      "-o",
      `source=${shared}`,
      "-f",
      "-o",
      "sandbox=chroot",
    ])
    const device = await VhostUserDevice.connect({ kind: "fs", socketPath, tag: "data" })
    const { run } = await boot({ devices: [device] })
    expect(await run("mount -t virtiofs data /mnt && cat /mnt/name")).toBe("from the host")
    expect(await run("echo guest > /mnt/made && sync && cat /mnt/made")).toBe("guest")
  })
})

/** Starts a back end of somebody else's, and waits for its socket. */
async function daemon(
  program: string,
  socketPath: string,
  options: readonly string[],
): Promise<ChildProcess> {
  const child = spawn(program, options, { stdio: ["ignore", "ignore", "pipe"] })
  let said = ""
  child.stderr.on("data", (bytes: Buffer) => {
    said = (said + bytes).slice(-2000)
  })
  closers.push(async () => {
    child.kill("SIGKILL")
    await ended(child)
  })
  for (let i = 0; i < 3000 && !existsSync(socketPath); i++) {
    if (child.exitCode !== null) throw new Error(`${program} ended: ${said}`)
    await setTimeout(10)
  }
  return child
}

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve()
  return new Promise(resolve => child.once("exit", () => resolve()))
}
