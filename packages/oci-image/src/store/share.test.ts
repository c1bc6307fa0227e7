import { type ChildProcessByStdio, spawn } from "node:child_process"
import { once } from "node:events"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { createInterface, type Interface } from "node:readline"
import type { Readable, Writable } from "node:stream"
import { setTimeout as sleep } from "node:timers/promises"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { packImage } from "../pack/pack-image.js"
import { bundleChild, type Child } from "../test-support/child.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { MEMORY, temporaryFolder } from "../test-support/images.js"
import type { LoadOrder, LoadReport } from "../test-support/load-child.js"
import { ImageStore } from "./store.js"

const LAYERS = 4
const ROUNDS = 8
let program: Child

beforeAll(async () => {
  program = await bundleChild("load-child")
})
afterAll(() => program[Symbol.dispose]())

/** A process that loads. It is killed at the end. */
class Loader implements AsyncDisposable {
  readonly #process: ChildProcessByStdio<Writable, Readable, null>
  readonly #lines: AsyncIterator<string>

  private constructor() {
    this.#process = spawn(process.execPath, [program.path], { stdio: ["pipe", "pipe", "inherit"] })
    const lines: Interface = createInterface({ input: this.#process.stdout })
    this.#lines = lines[Symbol.asyncIterator]()
  }

  static async start(): Promise<Loader> {
    const loader = new Loader()
    expect(await loader.hears()).toBe("ready")
    return loader
  }

  get pid(): number {
    return this.#process.pid as number
  }

  begin(order: LoadOrder): void {
    this.#process.stdin.write(`${JSON.stringify(order)}\n`)
  }

  async hears<T = unknown>(): Promise<T> {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error("the process has ended")
    return JSON.parse(value) as T
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    const exit = once(this.#process, "exit")
    this.#process.kill("SIGKILL")
    await exit
  }
}

/** An image whose own text claims a name that nobody gave it. */
async function setUp() {
  const folder = temporaryFolder(MEMORY)
  const layout = join(folder, "image")
  const layers = Array.from({ length: LAYERS }, (_, i) => ({
    files: [{ path: `f${i}`, content: Buffer.alloc(200_000, `${i}`) }],
  }))
  const { digest } = await packImage(layout, { layers, tag: "docker.io/library/mine:1", compression: "gzip" })
  return { folder, layout, digest }
}

const count = (reports: readonly LoadReport[], state: string) =>
  reports.flatMap(report => report.states).filter(is => is === state).length

/** What two loads have to leave: one image, whole, with the names that were given and no others. */
async function expectShared(path: string, digest: string, names: readonly string[]): Promise<void> {
  const store = await ImageStore.open(path)
  const [entry, ...others] = await store.list()
  expect(others).toEqual([])
  expect(entry?.image.digest).toBe(digest)
  expect(entry?.names).toEqual(names.map(name => `docker.io/library/${name}:latest`))
  const files = readErofs(readDiskBytes((await store.get(digest))?.disk() as { parts: []; size: number }))
  for (let i = 0; i < LAYERS; i++)
    expect(files.get(`f${i}`)?.content.equals(Buffer.alloc(200_000, `${i}`))).toBe(true)
  const index = JSON.parse(readFileSync(join(path, "index.json"), "utf8")) as { manifests: object[] }
  expect(index.manifests).toHaveLength(names.length)
  expect(["tmp", "leases"].flatMap(name => readdirSync(join(path, name)))).toEqual([])
}

describe("two processes and one store", () => {
  test("I14, I15: load one image at the same time: each layer is read once, both have it", async () => {
    const { folder, layout, digest } = await setUp()
    await using one = await Loader.start()
    await using two = await Loader.start()
    for (let round = 0; round < ROUNDS; round++) {
      const store = join(folder, `store-${round}`)
      const meetsAt = join(folder, `meet-${round}`)
      one.begin({ layout, store, name: "one", meetsAt })
      two.begin({ layout, store, name: "two", meetsAt })
      const reports = await Promise.all([one.hears<LoadReport>(), two.hears<LoadReport>()])
      expect(reports.map(report => report.digest)).toEqual([digest, digest])
      expect(reports.flatMap(report => report.read).sort()).toEqual([0, 1, 2, 3])
      expect([count(reports, "done"), count(reports, "exists")]).toEqual([LAYERS, LAYERS])
      await expectShared(store, digest, ["one", "two"])
    }
  })

  test("I14: one is killed while the other waits for it: the other finishes", async () => {
    const { folder, layout, digest } = await setUp()
    const store = join(folder, "store")
    const manifest = JSON.parse(readFileSync(join(layout, "blobs/sha256", digest.slice(7)), "utf8"))
    const layer = manifest.layers[1].digest as string
    await using one = await Loader.start()
    await using two = await Loader.start()
    one.begin({ layout, store, name: "one", hangsAt: layer })
    expect(await one.hears()).toBe("hangs")
    two.begin({ layout, store, name: "two" })
    const waits = () =>
      readdirSync(join(store, "leases")).some(name => name.startsWith(`queue-${layer.slice(7)}-${two.pid}-`))
    while (!waits()) await sleep(5)
    await one[Symbol.asyncDispose]()
    const report = await two.hears<LoadReport>()
    expect(report.digest).toBe(digest)
    expect(report.states[1]).toBe("done")
    expect(report.read).toContain(1)
    await expectShared(store, digest, ["two"])
  })
})
