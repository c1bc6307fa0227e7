import { createHash } from "node:crypto"
import {
  cpSync,
  createReadStream,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { packImage } from "../pack/pack-image.js"
import { RegistryClient } from "../registry/registry-client.js"
import type { BlobRequest } from "../sources/blob.js"
import { openSource } from "../sources/open.js"
import type { ImageSource } from "../sources/source.js"
import { ImageStore } from "../store/store.js"
import { readDiskBytes } from "./erofs-reader.js"
import { TestLayout } from "./test-layout.js"
import { estargzLayer } from "./toc-layers.js"

/** An operation on the store in `at`, and what is there before it; `images` are there to be loaded. */
interface Scenario {
  readonly prepare: (store: ImageStore, images: string, at: string) => Promise<unknown>
  readonly run: (store: ImageStore, images: string, at: string) => Promise<unknown>
  /** Whether it is one that cannot be done a second time. */
  readonly once?: boolean
}

const loadBoth = async (store: ImageStore, images: string) => {
  await store.load(`oci:${images}/a`, { name: "a" })
  await store.load(`oci:${images}/b`, { name: "b" })
}
const nothing = async () => undefined

/** Begins with an image that is not there, reads some of it, and fetches the rest. */
async function fillLazily(store: ImageStore, layout: string): Promise<void> {
  const opened = await openSource(`oci:${layout}`, store.limits)
  if (!("image" in opened)) throw new Error("the layout is no image")
  await using source = opened.image
  const range = async ({ digest }: BlobRequest, from: number, to: number) =>
    readFileSync(join(layout, "blobs/sha256", digest.slice(7))).subarray(from, to)
  const lazy = { ...lateBound(source), blobs: { open: source.blobs.open.bind(source.blobs), range } }
  const image = await store.openLazy(lazy)
  try {
    await image?.disk().parts[1]?.prepare?.(0, 4096)
    await image?.fill()
  } finally {
    await image?.[Symbol.asyncDispose]()
  }
  await store.load(lazy, { name: "a" })
}

function lateBound(source: ImageSource): Omit<ImageSource, "blobs"> {
  return { locate: options => source.locate(options), [Symbol.asyncDispose]: nothing }
}

/** Where the registry is that has the images: {@link prepareScenario} says it to the processes that pull. */
const REGISTRY_FILE = "registry"

async function pull(store: ImageStore, images: string): Promise<void> {
  const host = readFileSync(join(images, REGISTRY_FILE), "utf8")
  const hosts = new Map([[host, { plainHttp: true }]])
  await using client = new RegistryClient({ hosts, credentials: nothing })
  await store.load(client.source(`${host}/a`), { name: "a" })
}

/** Every operation that changes something. */
export const SCENARIOS = {
  load: { prepare: nothing, run: (store, images) => store.load(`oci:${images}/a`, { name: "a" }) },
  pull: { prepare: nothing, run: pull },
  "pull again": { prepare: loadBoth, run: pull },
  tag: { prepare: loadBoth, run: store => store.tag("a", "b") },
  remove: { prepare: loadBoth, run: store => store.remove("a"), once: true },
  collect: {
    prepare: async (store, images, at) => {
      await loadBoth(store, images)
      const digest = (await store.get("a"))?.digest as string
      rmSync(join(at, "store/images", digest.slice(7)), { recursive: true })
    },
    run: store => store.collectGarbage(),
  },
  prune: { prepare: loadBoth, run: store => store.prune({ all: true }) },
  save: {
    prepare: loadBoth,
    run: (store, _, at) => store.save(["a", "b"], join(at, "saved.tar"), { format: "docker-archive" }),
  },
  archive: {
    prepare: async (store, images, at) => {
      await loadBoth(store, images)
      await store.save(["a", "b"], join(at, "two.tar"))
      await store.remove("b")
    },
    run: (store, _, at) => store.loadArchive(join(at, "two.tar"), { names: "take" }),
  },
  import: {
    prepare: nothing,
    run: (store, images) => store.importTar(`${images}/rootfs.tar`, { name: "a" }),
  },
  commit: {
    prepare: loadBoth,
    run: (store, images) =>
      store.commit("a", createReadStream(`${images}/rootfs.tar`), { name: "c", created: new Date(0) }),
  },
  index: { prepare: loadBoth, run: store => store.keepLazyIndex("a") },
  lazy: {
    prepare: async (store, images) => {
      await loadBoth(store, images)
      await store.keepLazyIndex("a")
      await store.remove("a")
    },
    run: (store, images) => fillLazily(store, `${images}/a`),
  },
  toc: { prepare: nothing, run: (store, images) => fillLazily(store, `${images}/toc`) },
} satisfies Record<string, Scenario>

export type ScenarioName = keyof typeof SCENARIOS

/**
 * Makes the images, what a scenario begins with, and what it ends with when nothing fails.
 *
 * @param registry - address of one that has the images of `FOLDER/images`
 */
export async function prepareScenario(name: ScenarioName, folder: string, registry: string): Promise<void> {
  await makeImages(join(folder, "images"))
  writeFileSync(join(folder, "images", REGISTRY_FILE), registry)
  const begin = join(folder, "begin")
  await SCENARIOS[name].prepare(await ImageStore.open(join(begin, "store")), join(folder, "images"), begin)
  copyBegin(folder, "end")
  await runScenario(name, folder, "end")
  await (await ImageStore.open(join(folder, "end/store"))).collectGarbage()
}

/** A fresh copy of what a scenario begins with. */
export function copyBegin(folder: string, at: string): void {
  cpSync(join(folder, "begin"), join(folder, at), { recursive: true })
}

/** Runs the operation on the copy `at`. */
export async function runScenario(name: ScenarioName, folder: string, at: string): Promise<void> {
  const store = await ImageStore.open(join(folder, at, "store"))
  await SCENARIOS[name].run(store, join(folder, "images"), join(folder, at))
}

async function makeImages(folder: string): Promise<void> {
  const shared = { files: [{ path: "shared", content: Buffer.alloc(5000, "s") }] }
  const layer = (name: string) => ({ files: [{ path: name, content: name }, { path: ".wh.shared" }] })
  await packImage(join(folder, "a"), { layers: [shared, layer("a")], compression: "gzip" })
  await packImage(join(folder, "b"), { layers: [shared, layer("b")], compression: "gzip" })
  const files = [
    { path: "a", content: "a" },
    { path: "large", content: Buffer.alloc(9000, "l") },
  ]
  new TestLayout(join(folder, "toc")).image([estargzLayer(files, { chunkSize: 4000 })])
  const { digest } = await packImage(join(folder, "plain"), { layers: [layer("x")] })
  const manifest = JSON.parse(readFileSync(join(folder, "plain/blobs/sha256", digest.slice(7)), "utf8"))
  const tar = manifest.layers[0].digest.slice(7)
  writeFileSync(join(folder, "rootfs.tar"), readFileSync(join(folder, "plain/blobs/sha256", tar)))
}

/**
 * Looks at a store after an operation that failed: it opens, adds up, has whole images only; the operation succeeds when
 * it is done again; then everything is as if it had not failed.
 *
 * @returns what is wrong, in words
 */
export async function complaintsAfter(name: ScenarioName, folder: string, at: string): Promise<string[]> {
  const path = join(folder, at, "store")
  const store = await ImageStore.open(path)
  const complaints: string[] = []
  for (const kept of ["tmp", "leases"])
    if (readdirSync(join(path, kept)).length > 0) complaints.push(`something stays in ${kept}/`)
  complaints.push(...halfWritten(path))
  const usage = await store.diskUsage()
  if (usage.total !== sizeOf(path)) complaints.push(`usage is ${usage.total}, not ${sizeOf(path)}`)
  for (const { image } of await store.list())
    if (readDiskBytes(image.disk()).length !== image.size) complaints.push(`${image.digest} is not whole`)
  complaints.push(...(await again(name, folder, at)))
  await store.collectGarbage()
  complaints.push(...orphansIn(path))
  return [...complaints, ...differences(join(folder, at), join(folder, "end"))]
}

/** Blobs that are not what their names say, and documents that were cut off. */
function halfWritten(path: string): string[] {
  const hashes = hashesIn(join(path, "blobs/sha256"))
  const wrong = [...hashes].filter(([name, hash]) => name !== `/${hash}`).map(([name]) => `blob ${name}`)
  const documents = [join(path, "index.json"), join(path, "oci-layout"), ...filesIn(join(path, "refs"))]
  return [...wrong, ...documents.filter(document => !isJson(document))].map(name => `half written: ${name}`)
}

function isJson(path: string): boolean {
  try {
    return typeof JSON.parse(readFileSync(path, "utf8")) === "object"
  } catch {
    return false
  }
}

/** Parts and blobs that no image's record names. */
function orphansIn(path: string): string[] {
  const images = readdirSync(join(path, "images")).map(name =>
    JSON.parse(readFileSync(join(path, "images", name, "image.json"), "utf8")),
  )
  const needed = new Set(images.flatMap(image => [image.digest, image.configDigest, ...image.layers]))
  return ["parts", "blobs/sha256"].flatMap(folder =>
    readdirSync(join(path, folder))
      .filter(name => !needed.has(`sha256:${name}`))
      .map(name => `nobody needs ${folder}/${name}`),
  )
}

async function again(name: ScenarioName, folder: string, at: string): Promise<string[]> {
  try {
    await runScenario(name, folder, at)
    return []
  } catch (error) {
    const isGone = (error as { code?: string }).code === "not-found" && "once" in SCENARIOS[name]
    return isGone ? [] : [`done again: ${error}`]
  }
}

function differences(folder: string, expected: string): string[] {
  const [is, wanted] = [hashesIn(folder), hashesIn(expected)]
  const names = new Set([...is.keys(), ...wanted.keys()])
  return [...names].filter(name => is.get(name) !== wanted.get(name)).map(name => `differs: ${name}`)
}

function filesIn(folder: string): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(file => file.isFile())
    .map(file => join(file.parentPath, file.name))
}

function sizeOf(folder: string): number {
  return filesIn(folder).reduce((sum, path) => sum + readFileSync(path).length, 0)
}

function hashesIn(folder: string): Map<string, string> {
  const hash = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex")
  return new Map(filesIn(folder).map(path => [path.slice(folder.length), hash(path)]))
}
