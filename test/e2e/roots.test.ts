// Root file systems of the host: a folder and an ext4 disk, below a writable top or written to themselves.
import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { once } from "node:events"
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ImageStore } from "@ts-vmm/oci-image"
import { rootTar } from "@ts-vmm/oci-image/policy"
import { Sandbox, type SandboxOptions } from "@ts-vmm/runtime"
import { openFileBackend } from "@ts-vmm/virtio-devices/block"
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { PATIENCE_MS, underTest } from "./under-test.js"

const place = new Workplace()
const paths = { stateDir: place.stateDir, imageDir: TEST_IMAGE_DIR }
const work = mkdtempSync(join(tmpdir(), "roots-"))
const folder = join(work, "root")

const create = (rootfs: SandboxOptions["rootfs"] & object, options: Partial<SandboxOptions> = {}) =>
  Sandbox.create({ rootfs, paths, ...underTest, ...options })

beforeAll(async () => {
  const store = await ImageStore.open(paths.imageDir)
  const image = await store.load(`oci:${busyboxImage()}`)
  await writeFile(join(work, "root.tar"), rootTar(image.disk()))
  mkdirSync(folder)
  execFileSync("tar", ["-xf", join(work, "root.tar"), "-C", folder])
  writeFileSync(join(work, "secret"), "secret")
  symlinkSync("../secret", join(folder, "outside"))
})
afterAll(() => {
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
  rmSync(work, { recursive: true })
})

/** All that is in a folder, with what `find` tells of it. */
function listing(path: string): string {
  return execFileSync("find", [path, "-printf", "%P %y %m %U %G %s %T@\\n"], { encoding: "utf8" })
}

describe("a folder below a writable top", () => {
  test("runs programs; nothing in it changes, and nothing of it is kept", async () => {
    const before = listing(folder)
    await using sandbox = await create({ kind: "folder", path: folder })
    expect(sandbox.image).toBeUndefined()
    const script = "echo mine > /etc/mine; rm /bin/vi; mkdir /new; chmod 700 /bin; id -u; pwd; echo $PATH"
    const { stdout } = await sandbox.shell(script)
    expect(stdout).toBe("0\n/\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
    expect((await sandbox.shell("cat /etc/mine; ls -d /new; stat -c %a /bin; ls /bin/vi")).stdout).toBe(
      "mine\n/new\n700\n",
    )
    expect(listing(folder)).toBe(before)
    expect(Sandbox.list(paths).map(({ image, imageDigest }) => [image, imageDigest])).toEqual([
      [folder, undefined],
    ])
  })

  test("each container has a top of its own", async () => {
    await using sandbox = await create({ kind: "folder", path: folder })
    const one = await sandbox.createContainer({ command: ["sleep", "60"] })
    const other = await sandbox.createContainer({ command: ["sleep", "60"] })
    await one.shell("echo one > /file")
    expect((await other.exec("ls", ["/file"])).exitCode).not.toBe(0)
  })

  test("links out of it lead nowhere outside", async () => {
    await using sandbox = await create({ kind: "folder", path: folder })
    expect((await sandbox.shell("cat /outside /../secret; find / -xdev -name secret")).stdout).toBe("")
  })

  test("has changes and files to copy out, but no image that a layer could be added to", async () => {
    await using sandbox = await create({ kind: "folder", path: folder })
    const container = await sandbox.createContainer({ command: ["sleep", "60"] })
    await container.shell("echo x > /etc/x && rm /bin/vi")
    expect(await container.diff()).toEqual([
      { kind: "changed", path: "/bin" },
      { kind: "deleted", path: "/bin/vi" },
      { kind: "changed", path: "/etc" },
      { kind: "added", path: "/etc/x" },
    ])
    const tar = join(work, "out.tar")
    await writeFile(tar, container.copyOut("/etc/x"))
    expect(execFileSync("tar", ["-xOf", tar, "x"], { encoding: "utf8" })).toBe("x\n")
    await expect(container.commit()).rejects.toMatchObject({
      code: "image-not-found",
      message: expect.stringContaining(`the sandbox's root is the folder ${folder}`),
    })
    // The refusal leaves no container standing still.
    expect((await container.exec("echo", ["alive"])).stdout).toBe("alive\n")
  })

  test("is served to two sandboxes at once, with a disk for what they write", async () => {
    const options = { storage: { kind: "disk", sizeMiB: 64 } } as const
    await using one = await create({ kind: "folder", path: folder }, options)
    await using other = await create({ kind: "folder", path: folder })
    await one.shell("dd if=/dev/zero of=/big bs=1M count=32")
    expect((await one.exec("stat", ["-c", "%s", "/big"])).stdout).toBe(`${32 * 1024 * 1024}\n`)
    expect((await other.shell("ls /big")).exitCode).not.toBe(0)
  })
})

describe("a folder that is written to", () => {
  const written = join(work, "written")
  beforeAll(() => execFileSync("cp", ["-a", folder, written]))

  test("keeps what containers write, and containers share it", async () => {
    await using sandbox = await create({ kind: "folder", path: written, writable: true })
    const one = await sandbox.createContainer({ command: ["sleep", "60"] })
    const other = await sandbox.createContainer({ command: ["sleep", "60"] })
    await one.shell("echo kept > /etc/kept; rm /bin/vi")
    expect((await other.exec("cat", ["/etc/kept"])).stdout).toBe("kept\n")
    await expect(one.diff()).rejects.toMatchObject({
      code: "invalid-argument",
      message: expect.stringContaining(`writes to the folder ${written} itself`),
    })
    await writeFile(join(work, "kept.tar"), one.copyOut("/etc/kept"))
    expect(execFileSync("tar", ["-xOf", join(work, "kept.tar"), "kept"], { encoding: "utf8" })).toBe("kept\n")
    await one.remove()
    expect((await other.exec("echo", ["alive"])).stdout).toBe("alive\n")
    await sandbox.destroy()
    expect(readFileSync(join(written, "etc/kept"), "utf8")).toBe("kept\n")
    expect(existsSync(join(written, "bin/vi"))).toBe(false)
  })

  test("can be read-only for a container", async () => {
    await using sandbox = await create({ kind: "folder", path: written, writable: true })
    const container = await sandbox.createContainer({ command: ["sleep", "60"], readOnlyRoot: true })
    expect((await container.shell("echo x > /x")).stderr).toMatch(/Read-only file system/)
  })
})

describe("an ext4 disk", () => {
  const disk = join(work, "disk.ext4")
  const sum = () => createHash("sha256").update(readFileSync(disk)).digest("hex")
  const check = (path: string) => execFileSync("/sbin/e2fsck", ["-fn", path], { stdio: "pipe" })
  beforeAll(async () => {
    const store = await ImageStore.open(paths.imageDir)
    const image = await store.load(`oci:${busyboxImage()}`)
    await store.exportExt4(image.digest, disk, { size: 64 * 1024 * 1024 })
  })

  test("below a writable top runs programs and does not change, for two sandboxes at once", async () => {
    const before = sum()
    await using one = await create({ kind: "disk", path: disk })
    await using other = await create({ kind: "disk", path: disk })
    const script = "echo mine > /etc/mine && rm /bin/vi && ls /lost+found && cat /etc/mine"
    expect((await one.shell(script)).stdout).toBe("mine\n")
    const container = await other.createContainer({ command: ["sleep", "60"] })
    await container.shell("mkdir /new")
    expect(await container.diff()).toEqual([{ kind: "added", path: "/new" }])
    await expect(container.commit()).rejects.toMatchObject({ code: "image-not-found" })
    expect(sum()).toBe(before)
  })

  test("keeps what is written to it, and needs no repair after the sandbox's end", async () => {
    const written = join(work, "written.ext4")
    copyFileSync(disk, written)
    const rootfs = { kind: "disk", path: written, writable: true } as const
    {
      await using sandbox = await create(rootfs)
      const one = await sandbox.createContainer({ command: ["true"] })
      await one.wait()
      const other = await sandbox.createContainer({ command: ["sleep", "60"] })
      const script =
        "mkdir /data; i=0; while [ $i -lt 300 ]; do echo $i > /data/$i; i=$((i+1)); done; echo kept > /etc/kept"
      expect((await other.shell(script)).exitCode).toBe(0)
      expect((await sandbox.exec("cat", ["/etc/kept"])).stdout).toBe("kept\n")
      await expect(other.diff()).rejects.toMatchObject({ code: "invalid-argument" })
    }
    check(written)
    await using again = await create(rootfs)
    expect((await again.shell("cat /etc/kept; ls /data | wc -l")).stdout).toBe("kept\n300\n")
  })

  test("is whole again after a guest that ended in the middle of writing", async () => {
    const written = join(work, "cut.ext4")
    copyFileSync(disk, written)
    const rootfs = { kind: "disk", path: written, writable: true } as const
    const script =
      "echo synced > /etc/synced && sync; mkdir /data; echo up; while :; do echo x >> /data/x; done"
    // Under KVM a machine has no process of its own: it ends with its owner, which therefore is not this one.
    const owner = place.start(["run", "--rm", "--root-disk", `${written}:rw`, "sh", "-c", script])
    await once(owner.stdout, "data")
    const gone = once(owner, "close")
    owner.kill("SIGKILL")
    await gone
    await expect.poll(() => place.leftProcesses(), { timeout: PATIENCE_MS }).toEqual([])
    // What the kernel still did for it may hold the disk a moment longer.
    await vi.waitFor(() => openFileBackend(written).close(), { timeout: PATIENCE_MS, interval: 20 })
    await expect(create({ kind: "disk", path: written })).rejects.toMatchObject({
      code: "invalid-argument",
      message: expect.stringContaining("if it was not unmounted, start it once with writable"),
    })
    await using again = await create(rootfs)
    expect((await again.exec("cat", ["/etc/synced"])).stdout).toBe("synced\n")
    await again.destroy()
    check(written)
  })

  test("a full one is the program's error, and the sandbox lives", async () => {
    const written = join(work, "full.ext4")
    copyFileSync(disk, written)
    await using sandbox = await create({ kind: "disk", path: written, writable: true })
    const { stderr } = await sandbox.shell("dd if=/dev/zero of=/big bs=1M count=100")
    expect(stderr).toMatch(/No space left on device/)
    expect((await sandbox.shell("rm /big && echo room > /small && cat /small")).stdout).toBe("room\n")
  })

  test("is refused while somebody writes to it, as a symbolic link, and when it is no ext4", async () => {
    const written = join(work, "busy.ext4")
    copyFileSync(disk, written)
    await using sandbox = await create({ kind: "disk", path: written, writable: true })
    for (const writable of [true, false])
      await expect(create({ kind: "disk", path: written, writable })).rejects.toMatchObject({
        code: "invalid-argument",
        message: expect.stringContaining(`disk image ${written} is in use by somebody else`),
      })
    expect((await sandbox.exec("echo", ["alive"])).stdout).toBe("alive\n")
    symlinkSync(disk, join(work, "link.ext4"))
    await expect(create({ kind: "disk", path: join(work, "link.ext4") })).rejects.toMatchObject({
      code: "invalid-argument",
      message: expect.stringContaining("the root file system cannot be opened"),
    })
    writeFileSync(join(work, "none.ext4"), Buffer.alloc(1024 * 1024))
    const none = { kind: "disk", path: join(work, "none.ext4") } as const
    const refusal = {
      code: "invalid-argument",
      message: expect.stringContaining(
        `the disk ${none.path} cannot be mounted: it must be one ext4 file system`,
      ),
    }
    await expect(create(none)).rejects.toMatchObject(refusal)
    await using unmounted = await create({ ...none, writable: true })
    await expect(unmounted.exec("true")).rejects.toMatchObject(refusal)
  })

  test("that others made is a root too", async () => {
    const foreign = join(work, "foreign.ext4")
    writeFileSync(foreign, "")
    truncateSync(foreign, 32 * 1024 * 1024)
    execFileSync("/sbin/mke2fs", ["-q", "-F", "-t", "ext4", "-d", folder, foreign])
    await using sandbox = await create({ kind: "disk", path: foreign, writable: true })
    expect((await sandbox.shell("echo it works > /x && cat /x")).stdout).toBe("it works\n")
  })
})

describe("run --rootfs and --root-disk", () => {
  test("runs /bin/sh without a command, and any command", async () => {
    const shell = await place.run(["run", "--rm", "-i", "--rootfs", folder], {
      input: "echo from the shell\n",
    })
    expect(shell).toMatchObject({ exitCode: 0, stderr: "" })
    expect(shell.stdout.toString()).toBe("from the shell\n")
    const command = await place.run(["run", "--rm", "--rootfs", `${folder}:O`, "sh", "-c", "exit 7"])
    expect(command.exitCode).toBe(7)
  })

  test("PATH:rw writes to the folder itself", async () => {
    const written = join(work, "by-command")
    execFileSync("cp", ["-a", folder, written])
    const { exitCode } = await place.run(["run", "--rm", "--rootfs", `${written}:rw`, "touch", "/kept"])
    expect(exitCode).toBe(0)
    expect(existsSync(join(written, "kept"))).toBe(true)
  })

  test("image export-ext4 makes a disk, --root-disk runs it", async () => {
    const disk = join(work, "by-command.ext4")
    const store = await ImageStore.open(paths.imageDir)
    const { digest } = await store.load(`oci:${busyboxImage()}`)
    const made = await place.run(["image", "export-ext4", digest, "-o", disk, "--size", "64m", "--json"])
    expect(JSON.parse(made.stdout.toString())).toEqual({ path: disk, size: 64 * 1024 * 1024 })
    expect((await place.run(["run", "--rm", "--root-disk", `${disk}:rw`, "touch", "/kept"])).exitCode).toBe(0)
    const { stdout } = await place.run(["run", "--rm", "--root-disk", disk, "ls", "/kept"])
    expect(stdout.toString()).toBe("/kept\n")
    const small = await place.run(["image", "export-ext4", digest, "-o", disk, "--size", "1m"])
    expect(small).toMatchObject({ exitCode: 125 })
    expect(small.stderr).toMatch(/does not fit on a disk of 1048576 bytes: it needs \d+/)
  })

  test("exclude each other", async () => {
    const both = await place.run(["run", "--rootfs", "--root-disk", folder])
    expect(both.stderr).toBe("example-runtime: --rootfs and --root-disk exclude each other\n")
  })
})

test.each([
  [{ kind: "folder", path: "/nowhere" }, {}, "the root file system /nowhere does not exist"],
  [{ kind: "folder", path: "/dev/null" }, {}, "the root file system /dev/null is not a folder"],
  [
    { kind: "disk", path: "/dev/null" },
    {},
    "the root file system /dev/null is neither a disk image nor a block device",
  ],
  [{ kind: "tape", path: "/" }, {}, 'unknown kind of root file system "tape": use folder or disk'],
  [{ kind: "folder", path: "/tmp" }, { image: "debian" }, "image and rootfs exclude each other"],
  [{ kind: "folder", path: "/tmp" }, { lazy: true }, "lazy is for images: a rootfs is there already"],
  [
    { kind: "folder", path: "/tmp", writable: true },
    { storage: { kind: "memory" } },
    /^storage is for what containers write over their root/,
  ],
])("%j with %j is refused", async (rootfs, options, message) => {
  await expect(create(rootfs as never, options as never)).rejects.toMatchObject({
    code: "invalid-argument",
    message: typeof message === "string" ? message : expect.stringMatching(message),
  })
})

test("a policy decides about roots that are no images by its default", async () => {
  const policyFile = join(work, "policy.json")
  writeFileSync(policyFile, JSON.stringify({ default: "deny", rules: [] }))
  await expect(create({ kind: "folder", path: folder }, { policyFile })).rejects.toMatchObject({
    code: "image-refused",
    message: expect.stringContaining(`the folder ${folder} is no image and is denied by the default of`),
  })
})
