import {
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { RENAME_EXCHANGE, S_IFDIR } from "./host-abi.js"
import { type FoundFile, type Identity, type Inode, InodeTable, type KnownFile } from "./inode-table.js"
import { FATTR, FUSE } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { type FuseDriver, mustBe, u32, u64 } from "./testing.js"

/** Files that the guest has only heard of: no fd holds them, and their names lead to them. */
const { EMFILE, ENOENT, ESTALE } = constants.errno

let share: ShareUnderTest
let fs: FuseDriver
beforeEach(async () => {
  share = new ShareUnderTest()
  share.put({ a: "first", b: "second" })
  mkdirSync(share.path("dir"))
  writeFileSync(share.path("dir", "inner"), "inside")
  fs = (await share.attach()).fs
})
afterEach(async () => {
  share.checkOutside()
  await share[Symbol.asyncDispose]()
})

/** What a node holds, or a negative errno. */
async function content(node: number): Promise<string | number> {
  const handle = await fs.open(node)
  if (handle < 0) return handle
  const { body } = await fs.read(node, handle, 0, 100)
  await fs.release(node, handle)
  return Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString()
}

const rename = (from: string, to: string, flags = 0, parents = [1, 1]) =>
  fs.request(FUSE.RENAME2, parents[0]!, [u64(parents[1]!), u32(flags), u32(0), from, to])

describe("names that the guest changes", () => {
  test("a file that it renames", async () => {
    const [node, dir] = [await fs.node("a"), await fs.node("dir")]
    await rename("a", "moved", 0, [1, dir])
    expect(await content(node)).toBe("first")
    expect(await fs.node("moved", dir)).toBe(node)
  })

  test("two that it exchanges", async () => {
    const [a, b] = [await fs.node("a"), await fs.node("b")]
    await rename("a", "b", RENAME_EXCHANGE)
    expect(await content(a)).toBe("first")
    expect(await content(b)).toBe("second")
    expect([await fs.node("b"), await fs.node("a")]).toEqual([a, b])
  })

  test("one that another takes the name of, and one that it removes", async () => {
    const [a, b] = [await fs.node("a"), await fs.node("b")]
    await rename("a", "b")
    expect(await content(b)).toBe("second")
    expect((await fs.getattr(b)).links).toBe(0)
    await fs.request(FUSE.UNLINK, 1, ["b"])
    expect(await content(a)).toBe("first")
    expect((await fs.getattr(a)).links).toBe(0)
  })

  test("a folder that it removes, one that it renames, and what is in that", async () => {
    mkdirSync(share.path("empty"))
    const [empty, dir] = [await fs.node("empty"), await fs.node("dir")]
    const inner = await fs.node("inner", dir)
    await fs.request(FUSE.RMDIR, 1, ["empty"])
    expect((await fs.getattr(empty)).links).toBe(0)
    await rename("dir", "other")
    expect(await content(inner)).toBe("inside")
    expect(await fs.node("inner", await fs.node("other"))).toBe(inner)
  })

  test("the other name of a file whose one name it removes", async () => {
    linkSync(share.path("a"), share.path("link"))
    const node = await fs.node("link")
    expect(await fs.node("a")).toBe(node)
    await fs.request(FUSE.UNLINK, 1, ["a"])
    expect(await content(node)).toBe("first")
    await rename("link", "a")
    expect(await content(node)).toBe("first")
    expect((await fs.getattr(node)).links).toBe(1)
  })

  test("a file that is open and loses its name", async () => {
    const { node, handle } = mustBe(await fs.create("new"))
    await fs.write(node, handle, 0, Buffer.from("kept"))
    await fs.request(FUSE.UNLINK, 1, ["new"])
    expect((await fs.getattr(node)).size).toBe(4)
    expect(await content(node)).toBe("kept")
  })
})

describe("names that the host changes", () => {
  test("a file that is replaced: the old node is stale, its name a new one", async () => {
    const node = await fs.node("a")
    writeFileSync(share.path("new"), "replaced")
    renameSync(share.path("new"), share.path("a"))
    expect(await content(node)).toBe(-ESTALE)
    const now = await fs.node("a")
    expect(now).not.toBe(node)
    expect(await content(now)).toBe("replaced")
  })

  test("a file that is removed, and one that was used before", async () => {
    const [a, b] = [await fs.node("a"), await fs.node("b")]
    expect(await content(b)).toBe("second")
    for (const name of ["a", "b"]) rmSync(share.path(name))
    expect(await content(a)).toBe(-ESTALE)
    expect(await content(b)).toBe("second")
    expect(await content(b + 1000)).toBe(-ENOENT)
  })

  test("a file or folder that is open stays what it is, whatever becomes of its name", async () => {
    const { node, handle } = mustBe(await fs.create("log"))
    await fs.write(node, handle, 0, Buffer.from("before"))
    const dir = await fs.node("dir")
    await fs.open(dir, 0, FUSE.OPENDIR)
    share.put({ newer: "another" })
    renameSync(share.path("newer"), share.path("log"))
    renameSync(share.path("dir"), share.path("elsewhere"))
    expect(await fs.getattr(node)).toMatchObject({ size: 6, links: 0 })
    expect((await fs.setattr(node, FATTR.MODE, { 68: u32(0o600) })).error).toBe(0)
    expect(await content(node)).toBe("before")
    expect(readFileSync(share.path("log"), "utf8")).toBe("another")
    expect(await content(await fs.node("inner", dir))).toBe("inside")
  })

  test("F4: a link in place of a file, or of the folder around it, leads nowhere", async () => {
    mkdirSync(share.path("unused"))
    const [a, dir, unused] = [await fs.node("a"), await fs.node("dir"), await fs.node("unused")]
    const inner = await fs.node("inner", dir)
    rmSync(share.path("unused"), { recursive: true })
    symlinkSync(share.outside, share.path("unused"))
    expect(await fs.lookup("canary", unused)).toBe(-ESTALE)
    expect(await fs.create("new", { parent: unused })).toBe(-ESTALE)
    rmSync(share.path("a"))
    symlinkSync(share.canary, share.path("a"))
    writeFileSync(share.path("inner"), "")
    renameSync(share.path("dir"), share.path("old"))
    symlinkSync(share.outside, share.path("dir"))
    expect(await content(a)).toBe(-ESTALE)
    // The folder was used, and so is held: what is in it is found still.
    expect(await content(inner)).toBe("inside")
    renameSync(share.path("old", "inner"), share.path("old", "gone"))
    const again = await fs.node("gone", dir)
    expect(again).toBe(inner)
    expect(readFileSync(share.path("old", "gone"), "utf8")).toBe("inside")
  })
})

describe("the table", () => {
  const identity = (inode: string, born = 1): Identity => ({ inode, device: "d", type: S_IFDIR, born })
  let found: FoundFile | number
  let looked: string[]
  let opened: (id: number) => FoundFile | undefined
  let table: InodeTable
  const root = () => table.get(1) as Inode
  const name = (text: string) => Buffer.from(text)
  /** An fd for the table to close. */
  const open = () => openSync("/", "r")

  beforeEach(() => {
    looked = []
    opened = () => undefined
    table = new InodeTable(
      { ...identity("root"), fd: open() },
      10_000,
      {
        find: (parent, bytes) => {
          looked.push(`${parent.id}/${Buffer.from(bytes)}`)
          return found
        },
        findOpen: id => opened(id),
      },
      () => undefined,
    )
  })
  afterEach(() => {
    table.clear()
    closeSync(root().fd)
  })

  const note = (key: string, parent = root(), born = 1) =>
    table.note(identity(key, born), parent, name(key)) as KnownFile

  test("an inode number that is used again is another file", () => {
    const old = note("x")
    const now = note("x", root(), 2)
    expect(now.id).not.toBe(old.id)
    found = { ...identity("x", 2), fd: open() }
    expect(table.get(old.id)).toBe(-ESTALE)
    found = { ...identity("x", 2), fd: open() }
    expect(table.get(now.id)).toMatchObject({ id: now.id })
    table.forget(old.id, 1)
    expect(note("x", root(), 2)).toBe(now)
  })

  test("those used last stay held, and those without a name", () => {
    const ids = ["a", "b", "c", "d"].map(key => {
      return table.remember({ ...identity(key), fd: open() }, [root(), name(key)])?.id as number
    })
    const unnamed = table.remember({ ...identity("e"), fd: open() }) as Inode
    table.get(ids[0]!)
    table.trim(2)
    table.nameless(table.known(identity("d"))!, root(), name("other"))
    table.trim(2)
    expect(["a", "b", "c", "d", "e"].map(key => table.known(identity(key))?.fd !== undefined)).toEqual([
      true,
      false,
      false,
      true,
      true,
    ])
    table.nameless(table.known(identity("d"))!, root(), name("d"))
    table.trim(0)
    expect(unnamed.fd).toBeGreaterThan(0)
    expect(table.known(identity("d"))?.fd).toBeGreaterThan(0)
    expect(table.known(identity("a"))?.fd).toBeUndefined()
  })

  test("folders in each other are held again from the top; too many are not", () => {
    let parent = root()
    const chain: Inode[] = []
    for (let i = 0; i < 4097; i++) {
      parent = table.remember({ ...identity(`n${i}`), fd: open() }, [parent, name(`n${i}`)]) as Inode
      chain.push(parent)
      table.trim(1)
    }
    table.trim(0)
    expect(table.get(chain[4096]!.id)).toBe(-ESTALE)
    expect(looked).toEqual([])
    found = -EMFILE
    expect(table.get(chain[4095]!.id)).toBe(-EMFILE)
    expect(looked).toEqual(["1/n0"])
    table.forget(chain[0]!.id, 1)
    // Also when the guest has the folder open still that it has forgotten.
    opened = id => (id === chain[0]!.id ? { ...identity("n0"), fd: -1 } : undefined)
    expect(table.get(chain[1]!.id)).toBe(-ESTALE)
    expect(looked).toHaveLength(1)
  })
})
