import { execFileSync } from "node:child_process"
import { closeSync, lstatSync, mkdirSync, openSync, readdirSync, symlinkSync, writeFileSync } from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { FATTR, FUSE } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { entryOf, type FuseDriver, mustBe, u32, u64 } from "./testing.js"

const { EMFILE, ENOSPC, EXDEV } = constants.errno
const SUBMOUNT = 1
const countFds = () => readdirSync("/proc/self/fd").length

/** Sets how many fds this process may have. @returns what puts it back */
function limitFds(count: number): () => void {
  const soft = /^Max open files +(\S+)/m.exec(execFileSync("cat", ["/proc/self/limits"]).toString())![1]!
  const limit = (to: string) => execFileSync("prlimit", ["--pid", `${process.pid}`, `--nofile=${to}:`])
  limit(String(count))
  return () => void limit(soft)
}

let share: ShareUnderTest
beforeEach(() => {
  share = new ShareUnderTest()
})
afterEach(async () => {
  share.checkOutside()
  await share[Symbol.asyncDispose]()
})

describe("fds", () => {
  test("F9: a guest gets as many files and handles as it may, and no more, again and again", async () => {
    for (let i = 0; i < 40; i++) writeFileSync(share.path(`file${i}`), "")
    const { fs, device } = await share.attach({ maxFiles: 16 })
    const before = countFds()
    for (let round = 0; round < 3; round++) {
      const nodes: number[] = []
      for (let i = 0; i < 40; i++) {
        const entry = await fs.lookup(`file${i}`)
        if (typeof entry !== "number") nodes.push(entry.node)
        else expect(entry).toBe(-EMFILE)
      }
      expect(nodes).toHaveLength(15)
      // What is known is found still, and its node is not held twice.
      expect(mustBe(await fs.lookup("file0")).node).toBe(nodes[0])
      expect(await fs.create("new")).toBe(-EMFILE)
      expect(await fs.mkdir("new")).toBe(-EMFILE)
      const handles: number[] = []
      for (let i = 0; i < 40; i++) handles.push(await fs.open(nodes[0]!))
      expect(handles.filter(handle => handle > 0)).toHaveLength(16)
      expect(handles.at(-1)).toBe(-EMFILE)
      expect(await fs.open(1, 0, FUSE.OPENDIR)).toBe(-EMFILE)
      // Of the files only the one that is open had to be held.
      expect(countFds()).toBe(before + 1 + 16)
      expect(device.counts).toEqual({ inodes: 16, handles: 16 })
      for (const handle of handles.filter(one => one > 0)) await fs.release(nodes[0]!, handle)
      const listing = await fs.open(1, 0, FUSE.OPENDIR)
      const { entries } = await fs.readdir(1, listing, { size: 65_536, plus: true })
      expect(entries).toHaveLength(42)
      expect(entries.filter(({ node }) => node !== 0)).toHaveLength(15)
      await fs.init()
      expect(countFds()).toBe(before)
    }
    expect(readdirSync(share.shared)).toHaveLength(40)
  })

  test("a guest may know more files than this process may have open, and work on each", async () => {
    const release = limitFds(400)
    try {
      const { fs, device } = await share.attach()
      const before = countFds()
      const nodes: number[] = []
      for (let i = 0; i < 1000; i++) {
        const { node, handle } = mustBe(await fs.create(`file${i}`))
        await fs.write(node, handle, 0, Buffer.from(String(i)))
        await fs.release(node, handle)
        nodes.push(node)
      }
      const listing = await fs.open(1, 0, FUSE.OPENDIR)
      const { entries } = await fs.readdir(1, listing, { size: 100_000, plus: true })
      expect(entries.filter(({ node }) => nodes.includes(node)).length).toBeGreaterThan(500)
      for (const [i, node] of nodes.entries()) {
        const handle = await fs.open(node)
        const { body } = await fs.read(node, handle, 0, 10)
        expect(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString()).toBe(String(i))
        await fs.release(node, handle)
      }
      expect(device.counts.inodes).toBe(1001)
      expect(countFds() - before).toBeLessThan(250)
    } finally {
      release()
    }
  })

  test("F9: however much a guest may open, the process keeps some fds for itself", async () => {
    const release = limitFds(400)
    try {
      for (const name of ["file0", "file1"]) writeFileSync(share.path(name), "")
      const { fs } = await share.attach()
      const node = await fs.node("file0")
      let last = 0
      for (let i = 0; i < 500 && last >= 0; i++) last = await fs.open(node)
      expect(last).toBe(-EMFILE)
      expect(await fs.open(await fs.node("file1"))).toBe(-EMFILE)
      expect(await fs.create("new")).toBe(-EMFILE)
      expect((await fs.setattr(node, FATTR.SIZE)).error).toBe(-EMFILE)
      const own = Array.from({ length: 50 }, () => openSync("/dev/null", "r"))
      for (const fd of own) closeSync(fd)
    } finally {
      release()
    }
  })

  test("nothing stays open of what fails", async () => {
    for (const folder of ["", "dir"]) {
      mkdirSync(share.path(folder, "dir"), { recursive: true })
      writeFileSync(share.path(folder, "file"), "")
      symlinkSync("file", share.path(folder, "link"))
      execFileSync("mkfifo", [share.path(folder, "fifo")])
    }
    const { fs, device } = await share.attach()
    const nodes = [1]
    for (const name of ["file", "dir", "link", "fifo"]) nodes.push(await fs.node(name))
    // From its first use on a file is held.
    for (const node of nodes) await fs.getattr(node)
    const [before, counts] = [countFds(), device.counts]
    const failing: (() => Promise<unknown>)[] = nodes.flatMap(node => [
      () => fs.create("file", { flags: 0o202, parent: node }),
      () => fs.create("fifo", { flags: 2, parent: node }),
      () => fs.create("dir", { flags: 2, parent: node }),
      () => fs.create("bad", { flags: 2, parent: node, uid: 0xffff_ffff }),
      () => fs.mkdir("dir", node),
      () => fs.lookup("missing", node),
      () => fs.setattr(node, FATTR.SIZE, { 16: u64(2n ** 52n) }),
      () => fs.request(FUSE.TMPFILE, node, [u32(0), u32(0o100600), u32(0), u32(0), ""]),
      () => fs.request(FUSE.MKNOD, node, [u32(0o100600), u32(0), u32(0), u32(0), "file"]),
      () => fs.request(FUSE.SYMLINK, node, ["link", "x"]),
      () => fs.request(FUSE.LINK, node, [u64(nodes[2]!), "new"]),
      () => fs.request(FUSE.LINK, node, [u64(nodes[1]!), "file"]),
    ])
    for (const fail of failing) await fail()
    for (const [node, flags] of nodes.map(node => [node, 0o1000000] as const)) {
      const handle = await fs.open(node, flags)
      if (handle > 0) await fs.release(node, handle)
    }
    expect(device.counts).toEqual(counts)
    expect(countFds()).toBe(before)
    expect(() => share.device({}, "/dev/null")).toThrow()
    expect(() => share.device({}, share.path("missing"))).toThrow()
    expect(countFds()).toBe(before)
    expect(readdirSync(share.shared).sort()).toEqual(["dir", "fifo", "file", "link"])
  })

  test("a device that is closed leaves nothing open", async () => {
    const before = countFds()
    share.put({ file: "" })
    for (let i = 0; i < 5; i++) {
      await using other = new ShareUnderTest()
      const { fs } = await other.attach()
      for (const name of ["a", "b", "c"]) mustBe(await fs.create(name))
      await fs.open(1, 0, FUSE.OPENDIR)
    }
    expect(countFds()).toBe(before)
  })
})

/** Mounts of a test are undone when it ends. */
const mounted: string[] = []
function mount(...args: readonly string[]): void {
  execFileSync("mount", args)
  mounted.push(args.at(-1)!)
}

/** A small tmpfs inside the shared folder, or why there can be none. */
function whyNoMounts(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root"
  const folder = execFileSync("mktemp", ["-d"]).toString().trim()
  try {
    execFileSync("mount", ["-t", "tmpfs", "tmpfs", folder], { stdio: "ignore" })
    execFileSync("umount", [folder])
    return undefined
  } catch {
    return "cannot mount"
  } finally {
    execFileSync("rmdir", [folder])
  }
}

const noMounts = whyNoMounts()

describe.skipIf(noMounts)(`file systems in the folder (${noMounts ?? "mounted here"})`, () => {
  let fs: FuseDriver
  afterEach(() => {
    for (const path of mounted.splice(0).reverse()) execFileSync("umount", ["-l", path])
  })

  async function withTmpfs(options: string): Promise<number> {
    mkdirSync(share.path("small"))
    mount("-t", "tmpfs", "-o", options, "tmpfs", share.path("small"))
    ;({ fs } = await share.attach())
    return await fs.node("small")
  }

  test("F10: a full file system is ENOSPC, and works again when there is room", async () => {
    const parent = await withTmpfs("size=64k")
    const { node, handle } = mustBe(await fs.create("big", { parent }))
    expect((await fs.write(node, handle, 0, new Uint8Array(48 * 1024))).error).toBe(0)
    expect((await fs.write(node, handle, 48 * 1024, new Uint8Array(48 * 1024))).error).toBe(-ENOSPC)
    const allocate = [u64(handle), u64(0), u64(2 ** 40), u64(0)]
    expect((await fs.request(FUSE.FALLOCATE, node, allocate)).error).toBe(-ENOSPC)
    expect((await fs.setattr(node, FATTR.SIZE, { 16: u64(0) })).error).toBe(0)
    expect((await fs.write(node, handle, 0, new Uint8Array(4096))).body.getUint32(0, true)).toBe(4096)
    expect(lstatSync(share.path("small/big")).size).toBe(4096)
  })

  test("F10: no more inodes is ENOSPC for all that makes one", async () => {
    const parent = await withTmpfs("nr_inodes=8")
    let last: unknown
    for (let i = 0; i < 10; i++) last = await fs.create(`file${i}`, { parent })
    expect(last).toBe(-ENOSPC)
    expect(await fs.mkdir("dir", parent)).toBe(-ENOSPC)
    expect((await fs.request(FUSE.SYMLINK, parent, ["link", "x".repeat(200)])).error).toBe(-ENOSPC)
    const node = [u32(0o010600), u32(0), u32(0), u32(0), "fifo"]
    expect((await fs.request(FUSE.MKNOD, parent, node)).error).toBe(-ENOSPC)
    await fs.request(FUSE.UNLINK, parent, ["file0"])
    // The file goes when the guest has let go of it.
    await fs.init()
    expect(typeof (await fs.create("again", { parent: await fs.node("small") }))).toBe("object")
  })

  test("a mounted folder is told of as such, where the guest understands that", async () => {
    const parent = await withTmpfs("size=64k")
    share.put({ file: "" })
    expect(mustBe(await fs.lookup("small")).attr.flags).toBe(SUBMOUNT)
    expect(mustBe(await fs.mkdir("dir", parent)).attr.flags).toBe(0)
    const link = (from: number, to: number) => fs.request(FUSE.LINK, to, [u64(from), "linked"])
    expect((await link(await fs.node("file"), parent)).error).toBe(-EXDEV)
    expect((await fs.request(FUSE.RENAME, 1, [u64(parent), "file", "moved"])).error).toBe(-EXDEV)
    await fs.init(7, 38, 0)
    expect(mustBe(await fs.lookup("small")).attr.flags).toBe(0)
  })

  test("a folder that is mounted in two places is two nodes, and each works in its own", async () => {
    for (const name of ["one", "two"]) mkdirSync(share.path(name))
    mount("--bind", share.path("one"), share.path("two"))
    writeFileSync(share.path("one/file"), "text")
    ;({ fs } = await share.attach())
    const [one, two] = [await fs.node("one"), await fs.node("two")]
    expect(one).not.toBe(two)
    for (const parent of [one, two]) {
      const node = await fs.node("file", parent)
      const made = await fs.request(FUSE.LINK, parent, [u64(node), `linked${parent}`])
      expect(mustBe(entryOf(made)).node).toBe(node)
    }
    expect(readdirSync(share.path("one"))).toHaveLength(3)
  })
})
