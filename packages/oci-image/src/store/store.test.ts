import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { describe, expect, test, vi } from "vitest"
import { fingerprintFolder } from "../pack/fingerprint.js"
import { type PackOptions, packImage } from "../pack/pack-image.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { codeOf, plainLayer, snapshot, TestLayout, temporaryFolder } from "../test-support/images.js"
import { ImageStore } from "./store.js"
import type { StoredImage } from "./stored-image.js"

async function setUp(options: Partial<PackOptions> = {}) {
  const folder = temporaryFolder()
  const layout = join(folder, "image")
  const packed = await packImage(layout, { layers: [{ files: [{ path: "a", content: "one" }] }], ...options })
  return { folder, layout, packed, store: await ImageStore.open(join(folder, "store")) }
}

function contents(image: StoredImage): Record<string, string> {
  const files = [...readErofs(readDiskBytes(image.disk()))].filter(
    ([, file]) => (file.mode & 0o170000) === 0o100000,
  )
  return Object.fromEntries(files.map(([path, file]) => [path, file.content.toString("latin1")]))
}

const isIdle = (store: string) =>
  readdirSync(join(store, "tmp")).length + readdirSync(join(store, "leases")).length === 0

describe("loading", () => {
  test("gives the disk and the typed configuration", async () => {
    const config = {
      env: ["PATH=/bin", "A=b=c"],
      cmd: ["sh", "-c", "x"],
      entrypoint: ["/init"],
      workingDir: "/w",
      user: "1000:100",
      stopSignal: "SIGQUIT",
      exposedPorts: ["80/tcp"],
      volumes: ["/data"],
      labels: { "org.x": "y" },
    }
    const { store, layout, packed } = await setUp({ config })

    const image = await store.load(`oci:${layout}:latest`, { name: "app" })

    expect(image.digest).toBe(packed.digest)
    expect(image.configDigest).toBe(packed.configDigest)
    expect(image.config).toEqual({ platform: { os: "linux", architecture: "amd64" }, ...config })
    expect(contents(image)).toEqual({ a: "one" })
    expect(image.size % 4096).toBe(0)
  })

  test("stacks compressed and plain layers and shares parts between images", async () => {
    const { store, layout, folder } = await setUp({ compression: "gzip" })
    const other = join(folder, "other")
    await packImage(other, {
      compression: "gzip",
      layers: [
        { files: [{ path: "a", content: "one" }] },
        {
          files: [
            { path: "b", content: "two" },
            { path: "a", content: "new" },
          ],
        },
      ],
    })

    const [first, second] = [await store.load(`oci:${layout}`), await store.load(`oci:${other}`)]

    expect(second.layers[0]).toBe(first.layers[0])
    expect(contents(second)).toEqual({ a: "new", b: "two" })
    expect(contents(first)).toEqual({ a: "one" })
    expect(second.disk().parts[1]).toEqual(first.disk().parts[1])
  })

  test("one layer twice is one part", async () => {
    const files = [{ path: "a", content: "one" }]
    const { store, layout } = await setUp({ layers: [{ files }, { files: [{ path: ".wh.a" }] }, { files }] })
    const image = await store.load(`oci:${layout}`)
    expect(image.disk().parts).toHaveLength(2)
    expect(contents(image)).toEqual({ a: "one" })
  })

  test("an image that is there costs no second work, and needs its layers no more", async () => {
    const { store, layout, folder } = await setUp()
    const image = await store.load(`oci:${layout}`)
    const before = snapshot(join(folder, "store"))
    rmSync(join(layout, "blobs"), { recursive: true })

    const again = await store.load(`oci:${layout}`)

    expect(again.digest).toBe(image.digest)
    expect(snapshot(join(folder, "store"))).toEqual(before)
  })

  test("reports progress and ends at a signal, leaving nothing", async () => {
    const content = Buffer.alloc(3_000_000, "x")
    const { store, layout, folder } = await setUp({ layers: [{ files: [{ path: "a", content }] }] })
    const stop = new AbortController()
    const seen: number[] = []
    const load = store.load(`oci:${layout}`, {
      signal: stop.signal,
      onProgress: progress => {
        if (progress.state === "reading") seen.push(progress.done)
        if (progress.done > 1_000_000) stop.abort()
      },
    })
    await expect(load).rejects.toThrow(/aborted/)
    expect(seen[0]).toBe(0)
    expect(seen.at(-1)).toBeGreaterThan(1_000_000)
    expect(isIdle(join(folder, "store"))).toBe(true)
    expect(readdirSync(join(folder, "store", "parts"))).toEqual([])
  })

  test("takes a root folder, and packs it again only when it has changed", async () => {
    const { store, folder } = await setUp()
    const rootfs = join(folder, "root")
    mkdirSync(join(rootfs, "bin"), { recursive: true })
    writeFileSync(join(rootfs, "bin/x"), "x")
    chmodSync(join(rootfs, "bin/x"), 0o4711)
    symlinkSync("/etc/passwd", join(rootfs, "l"))

    const image = await store.load(rootfs)
    const file = readErofs(readDiskBytes(image.disk())).get("bin/x")
    expect(file).toMatchObject({ mode: 0o104711, uid: process.getuid?.() })
    expect((await store.load(`rootfs:${rootfs}`)).digest).toBe(image.digest)

    writeFileSync(join(rootfs, "bin/x"), "y")
    utimesSync(join(rootfs, "bin/x"), 1, 1)
    expect(contents(await store.load(rootfs))).toEqual({ "bin/x": "y" })
    expect(isIdle(join(folder, "store"))).toBe(true)
  })

  test("remembers a settled root folder without reading it", async () => {
    const { store, folder } = await setUp()
    const rootfs = join(folder, "root")
    mkdirSync(rootfs)
    writeFileSync(join(rootfs, "x"), "x")
    // Both are told by the machine's clock, which may be set meanwhile.
    await vi.waitFor(async () => expect((await fingerprintFolder(rootfs)).settled).toBe(true), {
      timeout: 30_000,
      interval: 50,
    })
    const image = await store.load(rootfs)
    const before = snapshot(join(folder, "store"))
    expect((await store.load(rootfs)).digest).toBe(image.digest)
    expect(snapshot(join(folder, "store"))).toEqual(before)
    expect(readdirSync(join(folder, "store/folders"))).toHaveLength(1)
  })

  test("picks the platform from an index, the highest variant that runs", async () => {
    const folder = temporaryFolder()
    const layout = new TestLayout(join(folder, "image"))
    const one = (variant: string, architecture = "amd64") => ({
      ...layout.image([plainLayer([{ path: variant }])]),
      platform: { os: "linux", architecture, variant },
    })
    const manifests = [one("v1"), one("v3"), one("v2"), one("v8", "arm64")]
    layout.index([layout.put("application/vnd.oci.image.index.v1+json", { schemaVersion: 2, manifests })])
    const store = await ImageStore.open(join(folder, "store"))
    const load = (variant?: string) =>
      store.load(`oci:${layout.path}`, {
        platform: { os: "linux", architecture: "amd64", ...(variant ? { variant } : {}) },
      })
    expect(contents(await load())).toEqual({ v1: "" })
    expect(contents(await load("v2"))).toEqual({ v2: "" })
    expect(contents(await load("v4"))).toEqual({ v3: "" })
    const riscv = { os: "linux", architecture: "riscv64" }
    expect(await codeOf(() => store.load(`oci:${layout.path}`, { platform: riscv }))).toBe("platform-missing")
  })

  test("says which names there are when the wanted one is missing or none is given", async () => {
    const { store, folder } = await setUp()
    const layout = new TestLayout(join(folder, "several"))
    const named = (name: string) => ({
      ...layout.image([plainLayer([{ path: name }])]),
      annotations: { "org.opencontainers.image.ref.name": name },
    })
    layout.index([named("one"), named("two")])
    await expect(store.load(`oci:${layout.path}`)).rejects.toThrow(/"one", "two"/)
    await expect(store.load(`oci:${layout.path}:three`)).rejects.toThrow(/"one", "two"/)
    expect(contents(await store.load(`oci:${layout.path}:two`))).toEqual({ two: "" })
  })
})

describe("names", () => {
  test("are found by every spelling, listed, moved and removed", async () => {
    const { store, layout, packed } = await setUp()
    await store.load(`oci:${layout}`, { name: "app" })
    await store.load(`oci:${layout}`, { name: "host.example:5000/team/app:1.0" })
    expect((await store.get("app:latest"))?.digest).toBe(packed.digest)
    expect((await store.get("host.example:5000/team/app:1.0"))?.digest).toBe(packed.digest)
    expect((await store.get(packed.digest))?.digest).toBe(packed.digest)
    expect(await store.get("nope")).toBeUndefined()
    expect((await store.list()).map(entry => entry.names)).toEqual([
      ["docker.io/library/app:latest", "host.example:5000/team/app:1.0"],
    ])
    await store.remove("app")
    expect(await store.get("app")).toBeUndefined()
    expect(await store.get(packed.digest)).toBeDefined()
  })

  test("removing the last name removes the image and what only it used", async () => {
    const { store, layout, folder } = await setUp()
    const other = join(folder, "other")
    const shared = { files: [{ path: "a", content: "one" }] }
    await packImage(other, { layers: [shared, { files: [{ path: "b", content: "two" }] }] })
    await store.load(`oci:${layout}`, { name: "one" })
    await store.load(`oci:${other}`, { name: "two" })

    await store.remove("two")
    expect((await store.list()).flatMap(entry => entry.names)).toEqual(["docker.io/library/one:latest"])
    expect(readdirSync(join(folder, "store/parts"))).toHaveLength(1)
    expect(readdirSync(join(folder, "store/blobs/sha256"))).toHaveLength(3)

    await store.remove("one")
    for (const part of ["parts", "images", "refs", "blobs/sha256"])
      expect(readdirSync(join(folder, "store", part))).toEqual([])
    expect(await codeOf(() => store.remove("one"))).toBe("not-found")
  })

  test("I15: names inside the content are not used", async () => {
    const { store, layout } = await setUp({ tag: "debian:12" })
    await store.load(`oci:${layout}`)
    expect((await store.list()).map(entry => entry.names)).toEqual([[]])
    expect(await store.get("debian:12")).toBeUndefined()
  })

  test("the store is itself an image layout that can be loaded from", async () => {
    const { store, layout, folder, packed } = await setUp()
    await store.load(`oci:${layout}`, { name: "app:1" })
    const second = await ImageStore.open(join(folder, "second"))
    expect((await second.load(`oci:${join(folder, "store")}:app:1`)).digest).toBe(packed.digest)
  })

  test("without blobs there is less on the disk and the image is the same", async () => {
    const { layout, folder } = await setUp()
    const store = await ImageStore.open(join(folder, "small"), { keepBlobs: false })
    expect(contents(await store.load(`oci:${layout}`))).toEqual({ a: "one" })
    expect(readdirSync(join(folder, "small/blobs/sha256"))).toHaveLength(2)
  })
})

describe("damage", () => {
  test("I14: an image whose part lost bytes counts as missing and is made whole by loading it again", async () => {
    const { store, layout } = await setUp()
    const image = await store.load(`oci:${layout}`, { name: "app" })
    for (const position of [0, 1]) {
      const { path } = image.disk().parts[position] as { path: string }
      const whole = readFileSync(path)
      writeFileSync(path, whole.subarray(0, 100))
      expect(await store.get("app")).toBeUndefined()
      expect(contents(await store.load(`oci:${layout}`, { name: "app" }))).toEqual({ a: "one" })
    }
  })

  test("I14: so does one with a damaged record or name; removing it works too", async () => {
    const { store, layout, folder, packed } = await setUp()
    await store.load(`oci:${layout}`, { name: "app" })
    const record = join(folder, "store/images", packed.digest.slice(7), "image.json")
    const name = join(folder, "store/refs", readdirSync(join(folder, "store/refs"))[0] as string)
    const json = readFileSync(record, "utf8")
    for (const bad of [
      "",
      "{",
      "[]",
      json.replace('"version":1', '"version":2'),
      json.replace('"cmd":[]', '"cmd":[1]'),
    ]) {
      writeFileSync(record, bad)
      expect(await store.get("app")).toBeUndefined()
      expect(await store.list()).toEqual([])
      await store.load(`oci:${layout}`)
      expect(await store.get("app")).toBeDefined()
    }
    writeFileSync(name, "{}")
    expect(await store.get("app")).toBeUndefined()
    writeFileSync(record, "")
    await store.remove(packed.digest)
    expect(readdirSync(join(folder, "store/images"))).toEqual([])
  })

  test("I14: opening removes what dead processes left and keeps what live ones use", async () => {
    const { folder } = await setUp()
    const path = join(folder, "store")
    const dead = "999999999-1-4026531836-0123456789abcdef"
    const [, live] = /(\d+-\d+-\d+)/.exec(await ownName(path)) as unknown as [string, string]
    for (const name of [dead, `${live}-00000000000000aa`]) {
      mkdirSync(join(path, "tmp", name))
      writeFileSync(join(path, "leases", `load-${name}`), "")
    }
    await ImageStore.open(path)
    expect(readdirSync(join(path, "tmp"))).toEqual([`${live}-00000000000000aa`])
    expect(readdirSync(join(path, "leases"))).toEqual([`load-${live}-00000000000000aa`])
  })
})

async function ownName(_store: string): Promise<string> {
  const { ownedName } = await import("./owner.js")
  return ownedName()
}

describe("several at once", () => {
  test("I14: loads of one image at the same time do the work once and agree", async () => {
    const { layout, folder } = await setUp()
    const stores = await Promise.all([1, 2, 3, 4].map(() => ImageStore.open(join(folder, "store"))))
    const images = await Promise.all(
      stores.map((store, i) => store.load(`oci:${layout}`, { name: `app:${i}` })),
    )
    expect(new Set(images.map(image => image.digest)).size).toBe(1)
    expect((await stores[0]?.list())?.[0]?.names).toHaveLength(4)
    const index = JSON.parse(readFileSync(join(folder, "store/index.json"), "utf8"))
    expect(index.manifests).toHaveLength(4)
    expect(isIdle(join(folder, "store"))).toBe(true)
  })

  test("I14: nothing is collected while something is loaded", async () => {
    const { layout, folder } = await setUp()
    const [one, two] = [
      await ImageStore.open(join(folder, "store")),
      await ImageStore.open(join(folder, "store")),
    ]
    const collected: boolean[] = []
    let isLoading = true
    const collecting: Promise<void>[] = []
    const image = await one.load(`oci:${layout}`, {
      onProgress: () => {
        // One that looks only when the load has ended may collect.
        const done = two.collectGarbage().then(is => void (isLoading && collected.push(is)))
        collecting.push(done)
      },
    })
    isLoading = false
    // Of two collections at once none does it: see below.
    await Promise.all(collecting)
    expect(collected.length).toBeGreaterThan(0)
    expect(collected).not.toContain(true)
    expect(contents(image)).toEqual({ a: "one" })
    expect(await two.collectGarbage()).toBe(true)
    expect(existsSync((image.disk().parts[1] as { path: string }).path)).toBe(true)
  })
})
