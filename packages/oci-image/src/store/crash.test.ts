import { cpSync, readdirSync, renameSync } from "node:fs"
import { join } from "node:path"
import { setImmediate as turn } from "node:timers/promises"
import { expect, test } from "vitest"
import { packImage } from "../pack/pack-image.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { sha256, temporaryFolder } from "../test-support/images.js"
import { ImageStore } from "./store.js"

const DEAD = "999999999-1-"

/** Copies a store as it is between two steps of a load, as if its process had been killed there. */
function copyAsIfKilled(store: string, to: string): void {
  cpSync(store, to, { recursive: true })
  for (const folder of ["tmp", "leases"]) {
    for (const name of readdirSync(join(to, folder))) {
      renameSync(join(to, folder, name), join(to, folder, name.replace(/\d+-\d+-/, DEAD)))
    }
  }
}

test("I14: a load killed at any point leaves a store that opens, cleans itself and loads", async () => {
  const folder = temporaryFolder()
  const source = `oci:${join(folder, "image")}`
  await packImage(join(folder, "image"), {
    compression: "gzip",
    layers: [
      {
        files: [
          { path: "a", content: Buffer.alloc(700_000, "a") },
          { path: "b", content: "b" },
        ],
      },
      { files: [{ path: ".wh.b" }, { path: "c", content: Buffer.alloc(300_000, "c") }] },
    ],
  })
  const copies: string[] = []
  const store = await ImageStore.open(join(folder, "store"))
  let done = false
  const load = store.load(source, { name: "app" }).finally(() => (done = true))
  for (let step = 0; !done; step++) {
    // Steps are short where files are renamed and long where the disk is waited for: look often, keep some.
    if (step % 7 === 0 && copies.length < 24) {
      const copy = join(folder, `copy-${copies.length}`)
      copyAsIfKilled(join(folder, "store"), copy)
      copies.push(copy)
    }
    await turn()
  }
  const expected = sha256(readDiskBytes((await load).disk()))
  expect(copies.length).toBeGreaterThan(10)

  for (const copy of copies) {
    const reopened = await ImageStore.open(copy)
    expect(readdirSync(join(copy, "tmp"))).toEqual([])
    expect(readdirSync(join(copy, "leases"))).toEqual([])
    const found = await reopened.get("app")
    if (found) expect(sha256(readDiskBytes(found.disk()))).toBe(expected)
    const image = await reopened.load(source, { name: "app" })
    expect(sha256(readDiskBytes(image.disk()))).toBe(expected)
    expect(readErofs(readDiskBytes(image.disk())).has("b")).toBe(false)
    await reopened.remove("app")
    expect(readdirSync(join(copy, "parts"))).toEqual([])
  }
})
