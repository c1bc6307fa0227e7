// File systems that come to a running sandbox and go, and those that another process serves.
import { execFileSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Sandbox, type SandboxMount } from "@ts-vmm/runtime"
import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { serveVhostUser } from "@ts-vmm/virtio-devices/vhost-user"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { HYPERVISOR, underTest } from "./under-test.js"

const image = `oci:${busyboxImage()}`
const closers: (() => void)[] = []
let root: string
let sandbox: Sandbox

const at = (name: string) => join(root, name)
const sh = async (script: string) => (await sandbox.shell(script)).stdout
const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "none",
    (error: { code?: string }) => error.code,
  )

/** A file with an ext4 file system that holds one file, `name`. */
function makeDisk(name: string): string {
  mkdirSync(at(`${name}.d`))
  writeFileSync(at(`${name}.d/name`), `${name}\n`)
  const path = at(`${name}.img`)
  execFileSync("mke2fs", ["-q", "-F", "-t", "ext4", "-d", at(`${name}.d`), path, "16M"], {
    env: { PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` },
  })
  return path
}

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "attach-"))
  mkdirSync(at("shared"))
  writeFileSync(at("shared/name"), "folder\n")
  const paths = { stateDir: at("state"), imageDir: at("images") }
  sandbox = await Sandbox.create({ image, paths, sharedMemory: true, ...underTest })
  await sandbox.exec("true")
})
afterAll(async () => {
  await sandbox?.destroy()
  for (const close of closers.reverse()) close()
  rmSync(root, { recursive: true })
})

test.runIf(HYPERVISOR === "uml")(
  "on User Mode Linux it is refused in words, and nothing is left",
  async () => {
    const attaching = sandbox.attachMount({ source: at("shared"), target: "/data" })
    await expect(attaching).rejects.toThrow(/hypervisor cannot give a running sandbox a device.*use kvm/)
    expect(await code(sandbox.attachMount({ source: at("shared"), target: "/data" }))).toBe(
      "hypervisor-unavailable",
    )
    expect(await sh("ls /data 2>/dev/null; echo ok")).toBe("ok\n")
  },
)

test("what cannot be mounted is refused before anything happens", async () => {
  const refused = (mount: SandboxMount) => code(sandbox.attachMount(mount))
  expect(await refused({ source: at("missing"), target: "/x" })).toBe("invalid-argument")
  expect(await refused({ source: at("shared"), target: "x" })).toBe("invalid-argument")
  expect(await refused({ type: "disk", source: at("shared"), target: "/x" })).toBe("invalid-argument")
  expect(await refused({ type: "vhost-user-blk", source: at("shared"), target: "/x" })).toBe(
    "invalid-argument",
  )
  expect(await code(sandbox.detachMount("/x"))).toBe("not-found")
})

describe.runIf(HYPERVISOR === "kvm")("a running sandbox on KVM", () => {
  test("a folder comes to a container that runs, is written, is in use, goes", async () => {
    const startedAt = performance.now()
    await sandbox.attachMount({ source: at("shared"), target: "/data" })
    console.info(`folder seen in a running container: ${Math.round(performance.now() - startedAt)} ms`)
    expect(await sh("cat /data/name; echo guest > /data/made")).toBe("folder\n")
    expect(readFileSync(at("shared/made"), "utf8")).toBe("guest\n")
    expect(await code(sandbox.attachMount({ source: at("shared"), target: "/data" }))).toBe(
      "invalid-argument",
    )

    const user = await sandbox.spawn("sh", ["-c", "cd /data; echo there; exec sleep 1000"])
    for await (const event of user) if (event.kind === "stdout") break
    expect(await code(sandbox.detachMount("/data"))).toBe("in-use")
    expect(await sh("cat /data/name")).toBe("folder\n")
    await user.kill("SIGKILL")
    await user.wait()
    await sandbox.detachMount("/data")
    expect(await sh("ls /data; grep -c ' /data ' /proc/mounts; true")).toBe("0\n")
  })

  test("disks come and go, more often than there are slots; containers that start later see what is there", async () => {
    const disk = makeDisk("disk")
    for (let round = 0; round < 6; round++) {
      await sandbox.attachMount({ type: "disk", source: disk, target: "/disk", readOnly: round % 2 === 0 })
      expect(await sh("cat /disk/name")).toBe("disk\n")
      const writing = await sandbox.shell("echo x > /disk/new && rm /disk/new")
      expect(writing.exitCode === 0).toBe(round % 2 === 1)
      if (round === 0) {
        const later = await sandbox.createContainer({ command: ["cat", "/disk/name"] })
        expect((await later.wait()).exitCode).toBe(0)
        await later.remove()
      }
      await sandbox.detachMount("/disk")
    }
  })

  test("what another process serves, a disk and a folder", async () => {
    const backend = openFileBackend(makeDisk("served"))
    const folder = new FsDevice(at("shared"), { tag: "any" })
    const servers = [
      serveVhostUser(new BlockDevice(backend), { socketPath: at("blk.sock") }),
      serveVhostUser(folder, { socketPath: at("fs.sock") }),
    ]
    closers.push(
      () => backend.close(),
      () => folder.close(),
      ...servers.map(server => () => server.close()),
    )
    await sandbox.attachMount({ type: "vhost-user-blk", source: at("blk.sock"), target: "/served" })
    await sandbox.attachMount({ type: "vhost-user-fs", source: at("fs.sock"), target: "/folder" })
    expect(await sh("cat /served/name /folder/name")).toBe("served\nfolder\n")
    await sandbox.detachMount("/served")
    await sandbox.detachMount("/folder")
    expect(await sh("ls /served /folder | grep -c name; true")).toBe("0\n")
  })
})
