// Folders and files of the host in a sandbox, over virtio-fs: what programs do with them, seen from both sides.
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type RuntimePaths, Sandbox } from "@ts-vmm/runtime"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { underTest } from "./under-test.js"

let root: string
let shared: string
let paths: RuntimePaths
let sandbox: Sandbox
const image = `oci:${busyboxImage()}`

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "volumes-"))
  shared = join(root, "shared")
  paths = { stateDir: join(root, "state"), imageDir: join(root, "images") }
  for (const name of ["shared", "shared/sub", "read-only", "private"]) mkdirSync(join(root, name))
  writeFileSync(join(root, "private", "secret"), "secret")
  writeFileSync(join(root, "private", "one"), "one file\n")
  writeFileSync(join(shared, "hello"), "hello from the host\n")
  writeFileSync(join(root, "read-only", "file"), "unchanged\n")
  symlinkSync("../private/secret", join(shared, "outside"))
  symlinkSync(join(root, "private", "secret"), join(shared, "outside-absolute"))
  sandbox = await Sandbox.create({
    image,
    paths,
    mounts: [
      { source: shared, target: "/data" },
      { source: join(root, "read-only"), target: "/ro", readOnly: true },
      { source: join(root, "private", "one"), target: "/etc/one" },
    ],
    ...underTest,
  })
})
afterAll(async () => {
  await sandbox?.destroy()
  rmSync(root, { recursive: true })
})

const sh = async (script: string) => {
  const { stdout, stderr, exitCode } = await sandbox.shell(script)
  return { stdout, stderr, exitCode }
}

describe("a folder", () => {
  test("is read and written, and both sides see it", async () => {
    expect((await sh("cat /data/hello")).stdout).toBe("hello from the host\n")
    expect(await sh("mkdir -p /data/a/b && echo guest > /data/a/b/file && chmod 640 /data/a/b/file")).toEqual(
      {
        stdout: "",
        stderr: "",
        exitCode: 0,
      },
    )
    const file = join(shared, "a/b/file")
    expect(readFileSync(file, "utf8")).toBe("guest\n")
    expect(statSync(file).mode & 0o7777).toBe(0o640)
    writeFileSync(join(shared, "later"), "later\n")
    expect((await sh("sleep 1.1; cat /data/later")).stdout).toBe("later\n")
  })

  test("renames, links, removes", async () => {
    const script = `cd /data/sub && echo x > one && ln one two && ln -s one three && mv two four
      stat -c '%h' one; readlink three; cat four; rm one; ls; mkdir d && rmdir d && rm three four; ls | wc -l`
    expect((await sh(script)).stdout).toBe("2\none\nx\nfour\nthree\n0\n")
    expect(readdirSync(join(shared, "sub"))).toEqual([])
  })

  test("a file is used after it was unlinked", async () => {
    const script =
      "cd /data; echo first > gone; exec 3<>gone; rm gone; echo second >&3; ls gone 2>&1; cat /proc/self/fd/3"
    expect((await sh(script)).stdout).toContain("second")
    expect(existsSync(join(shared, "gone"))).toBe(false)
  })

  test("holds a thousand names, and a large file with equal bytes", async () => {
    const names = "cd /data && mkdir many && cd many && for i in $(seq 1000); do : > n$i; done; ls | wc -l"
    expect((await sh(names)).stdout).toBe("1000\n")
    expect(readdirSync(join(shared, "many"))).toHaveLength(1000)
    const copy = `dd if=/dev/urandom of=/data/big bs=1M count=32 2>/dev/null; cp /data/big /data/copy
      cmp /data/big /data/copy && sha256sum < /data/copy`
    expect((await sh(copy)).stdout).toMatch(/^[0-9a-f]{64}/)
    expect(readFileSync(join(shared, "big")).equals(readFileSync(join(shared, "copy")))).toBe(true)
    expect((await sh("rm -r /data/many /data/big /data/copy; ls /data | grep -c many")).stdout).toBe("0\n")
  })

  test("F1: links out of it lead nowhere outside", async () => {
    expect((await sh("cat /data/outside /data/outside-absolute; cat /data/../private/secret")).stdout).toBe(
      "",
    )
    expect((await sh("cd /data/sub && cat ../../private/secret")).stdout).toBe("")
  })

  test("F9: devices cannot be made or opened", async () => {
    const made = await sh("mknod /data/null c 1 3")
    expect(made.exitCode).not.toBe(0)
    expect(existsSync(join(shared, "null"))).toBe(false)
    expect((await sh("mkfifo /data/fifo && ls -l /data/fifo | cut -c1")).stdout).toBe("p\n")
    expect(lstatSync(join(shared, "fifo")).isFIFO()).toBe(true)
  })
})

describe("a read-only folder", () => {
  test("is read, and nothing of it changes", async () => {
    expect((await sh("cat /ro/file")).stdout).toBe("unchanged\n")
    for (const change of [
      "echo x > /ro/file",
      "rm /ro/file",
      "mkdir /ro/d",
      "chmod 777 /ro/file",
      "touch /ro/file",
    ])
      expect((await sh(change)).stderr).toMatch(/Read-only file system/)
    expect(readFileSync(join(root, "read-only", "file"), "utf8")).toBe("unchanged\n")
  })
})

describe("a single file", () => {
  test("is there without its neighbours", async () => {
    expect((await sh("cat /etc/one; echo more >> /etc/one; cat /etc/one")).stdout).toBe(
      "one file\none file\nmore\n",
    )
    expect(readFileSync(join(root, "private", "one"), "utf8")).toBe("one file\nmore\n")
    expect((await sh("find / -xdev -name secret; find /etc /data -name secret")).stdout).toBe("")
  })
})

describe("mounts that cannot be", () => {
  test.each([
    [{ source: "/nowhere", target: "/x" }, "the mount source /nowhere does not exist"],
    [
      { source: "/dev/null", target: "/x" },
      "the mount source /dev/null is neither a folder nor a regular file",
    ],
    [{ source: "/tmp", target: "x" }, 'the mount target "x" is not an absolute path'],
    [{ source: "/tmp", target: "/a/../.." }, 'the mount target "/a/../.." cannot be used'],
  ])("%j", async (mount, message) => {
    const creating = Sandbox.create({ image, paths, mounts: [mount], ...underTest })
    await expect(creating).rejects.toMatchObject({ code: "invalid-argument", message })
  })

  test("a folder that is taken away under the guest gives errors, and the sandbox lives", async () => {
    const lost = join(root, "lost")
    mkdirSync(lost)
    chmodSync(lost, 0o755)
    await using other = await Sandbox.create({
      image,
      paths,
      mounts: [{ source: lost, target: "/lost" }],
      ...underTest,
    })
    rmSync(lost, { recursive: true })
    const { exitCode } = await other.shell("echo x > /lost/file")
    expect(exitCode).not.toBe(0)
    expect((await other.exec("echo", ["alive"])).stdout).toBe("alive\n")
  })
})
