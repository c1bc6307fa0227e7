// F2: files and folders become symbolic links to what is outside, and back, while the guest works on their names. By
// default some thousand requests for each operation; TS_VMM_FS_RACES=100000 for as many as that.
import { linkSync, lstatSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { Worker } from "node:worker_threads"
import { afterEach, beforeEach, expect, test } from "vitest"
import { FATTR, FUSE } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { type FuseDriver, u32, u64 } from "./testing.js"

const TRIES = Number(process.env["TS_VMM_FS_RACES"] ?? 4000)
const TIMEOUT = 60_000 + TRIES * 40
/** Requests between two turns of the event loop. */
const TURN = 64

/** Renames a file and a folder away and links to the outside into their places, without end. */
const RACER = `
const { renameSync } = require("node:fs")
const { parentPort, workerData: { shared, stop, rounds } } = require("node:worker_threads")
const at = name => shared + "/" + name
const swap = name => {
  for (const [from, to] of [[name, name + ".real"], [name + ".link", name], [name, name + ".link"], [name + ".real", name]]) {
    try {
      renameSync(at(from), at(to))
    } catch {
      // The guest takes things away and puts others in their place.
    }
  }
}
parentPort.postMessage("ready")
while (Atomics.load(stop, 0) === 0) {
  swap("d")
  swap("f")
  Atomics.add(rounds, 0, 1)
}
`

let share: ShareUnderTest
let fs: FuseDriver
let worker: Worker
let stop: Int32Array
let rounds: Int32Array
let outsideInodes: bigint[]

beforeEach(async () => {
  share = new ShareUnderTest()
  outsideInodes = [share.canary, share.outside].map(path => lstatSync(path, { bigint: true }).ino)
  restore()
  ;({ fs } = await share.attach())
  stop = new Int32Array(new SharedArrayBuffer(4))
  rounds = new Int32Array(new SharedArrayBuffer(4))
  worker = new Worker(RACER, { eval: true, workerData: { shared: share.shared, stop, rounds } })
  await new Promise(resolve => worker.once("message", resolve))
})
afterEach(async () => {
  Atomics.store(stop, 0, 1)
  await worker.terminate()
  await share[Symbol.asyncDispose]()
})

/** Makes what is missing of the racer's files. */
function restore(): void {
  const tries = [
    () => mkdirSync(share.path("d")),
    () => writeFileSync(share.path("f"), "inside", { flag: "wx" }),
    () => symlinkSync("../outside", share.path("d.link")),
    () => symlinkSync("../outside/canary", share.path("f.link")),
    () => writeFileSync(share.path("own"), "own", { flag: "wx" }),
  ]
  for (const make of tries) {
    try {
      make()
    } catch (error) {
      expect(error).toMatchObject({ code: "EEXIST" })
    }
  }
}

/** A node under a racing name; undefined when there is none now. */
async function find(name: string, parent = 1): Promise<number | undefined> {
  const entry = await fs.lookup(name, parent)
  if (typeof entry === "number") return undefined
  expect(outsideInodes, "a file outside was found").not.toContain(entry.attr.inode)
  return entry.node
}

/** The same of the folder, for requests that are made in it. */
const folder = async () => (await find("d")) ?? 1

const OPERATIONS: Readonly<Record<string, () => Promise<unknown>>> = {
  async lookup() {
    await find("canary", await folder())
    await find("f")
  },
  async open() {
    const node = (await find("f")) ?? 1
    const handle = await fs.open(node, 2)
    if (handle < 0) return
    const { body } = await fs.read(node, handle, 0, 64)
    expect(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString()).toBe("inside")
    await fs.release(node, handle)
  },
  async create() {
    for (const [name, parent] of [
      ["f", 1],
      ["canary", await folder()],
    ] as const) {
      const made = await fs.create(name, { parent, flags: 2 })
      if (typeof made === "number") continue
      await fs.write(made.node, made.handle, 0, Buffer.from("inside"))
      await fs.release(made.node, made.handle)
    }
  },
  async rename() {
    await fs.request(FUSE.RENAME, 1, [u64(await folder()), "own", "canary"])
    await fs.request(FUSE.RENAME, await folder(), [u64(1), "canary", "own"])
    await fs.request(FUSE.RENAME, 1, [u64(1), "own", "f"])
    await fs.request(FUSE.RENAME2, 1, [u64(1), u32(2), u32(0), "f", "own"])
  },
  async mkdir() {
    const parent = await folder()
    await fs.mkdir("made", parent)
    await fs.request(FUSE.RMDIR, parent, ["made"])
    await fs.mkdir("d")
  },
  async unlink() {
    await fs.request(FUSE.UNLINK, await folder(), ["canary"])
    await fs.request(FUSE.UNLINK, 1, ["f"])
    await fs.request(FUSE.RMDIR, 1, ["d"])
  },
  async link() {
    const [node, parent] = [(await find("f")) ?? 1, await folder()]
    await fs.request(FUSE.LINK, parent, [u64(node), "linked"])
    await fs.request(FUSE.UNLINK, parent, ["linked"])
  },
  async symlink() {
    const parent = await folder()
    await fs.request(FUSE.SYMLINK, parent, ["made", "/"])
    await fs.request(FUSE.UNLINK, parent, ["made"])
    await fs.request(FUSE.SYMLINK, 1, ["f", "../outside/canary"])
  },
  async setattr() {
    const fields = { 16: u64(6), 40: u64(5), 68: u32(0o777), 76: u32(7), 80: u32(7) }
    const bits = [FATTR.SIZE, FATTR.MTIME, FATTR.MODE, FATTR.UID, FATTR.GID]
    for (const node of [await find("f"), await find("d")])
      if (node !== undefined) for (const bit of bits) await fs.setattr(node, bit, fields)
  },
}

test.each(Object.keys(OPERATIONS))(
  `F2: %s never reaches outside, ${TRIES} times`,
  { timeout: TIMEOUT },
  async name => {
    for (let i = 0; i < TRIES; i++) {
      await OPERATIONS[name]?.()
      if (i % TURN !== TURN - 1) continue
      share.checkOutside()
      restore()
      // Nodes that were found stay known; nobody needs so many.
      await fs.init()
    }
    share.checkOutside()
    expect(Atomics.load(rounds, 0)).toBeGreaterThan(TRIES / 100)
    Atomics.store(stop, 0, 1)
  },
)

test("F2: a file that has a second name outside is only what was shared of it", async () => {
  linkSync(share.path("own"), `${share.root}/second`)
  const node = (await find("own")) ?? 0
  expect((await fs.getattr(node)).links).toBe(2)
  expect(readFileSync(`${share.root}/second`, "utf8")).toBe("own")
})
