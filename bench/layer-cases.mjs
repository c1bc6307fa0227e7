// Images of many small layers, and of a layer that only changes modes: from a layout on this machine, as a library.
import { rmSync } from "node:fs"
import { ROOT } from "../scripts/setup/paths.mjs"
import { goals } from "./harness.mjs"
import { wallMs, which } from "./process.mjs"

const { ImageStore, packImage } = await import(`${ROOT}/packages/oci-image/dist/index.js`)

const LAYERS = 60
const FILES = 2000
const FILE_BYTES = 20_000
const MIB = 1024 * 1024

const small = i => ({ files: [{ path: `file-${i}`, content: Buffer.alloc(5000, `${i}`) }] })

/** As many files as a program's; `mode` is all that two such layers differ in. */
function program(mode) {
  const files = Array.from({ length: FILES }, (_, i) => {
    const content = Buffer.alloc(FILE_BYTES, `${i} of ${FILES}\n`)
    return { path: `srv/${i % 16}/${i}`, content, mode }
  })
  return { files }
}

/** Loads an image into an empty store. */
async function load(layout, path) {
  rmSync(path, { recursive: true, force: true })
  const store = await ImageStore.open(path)
  const since = performance.now()
  const image = await store.load(`oci:${layout}`)
  return { image, ms: performance.now() - since }
}

/** @param {string} folder scratch */
export async function layerCases(folder) {
  const [many, changed, store, bundle] = ["many", "changed", "layers", "unpacked"].map(
    name => `${folder}/${name}`,
  )
  await packImage(many, {
    compression: "gzip",
    tag: "latest",
    layers: Array.from({ length: LAYERS }, (_, i) => small(i)),
  })
  await packImage(changed, { compression: "gzip", layers: [program(0o644), program(0o755)] })
  const peer = {
    name: "umoci",
    measure: () => {
      rmSync(bundle, { recursive: true, force: true })
      return wallMs(["umoci", "unpack", "--rootless", "--image", `${many}:latest`, bundle])
    },
  }
  return [
    {
      name: `as a library: ${LAYERS} layers of one small file`,
      unit: "ms",
      better: "lower",
      ours: async () => (await load(many, store)).ms,
      ...(which("umoci") ? { peer } : { missing: "umoci: not installed" }),
      goal: goals.atMost(1500, "ms"),
    },
    {
      name: "a layer of changed modes: content that takes pages of its own",
      unit: "MiB",
      better: "lower",
      ours: async () => {
        const { image } = await load(changed, store)
        const [, , upper] = image.disk().parts
        return (upper.size - image.sharedSize) / MIB
      },
      goal: goals.atMost(0, "MiB"),
    },
  ]
}
