import { readdirSync } from "node:fs"
import { join } from "node:path"
import { afterEach } from "vitest"
import type { LazyLayerReport } from "../lazy/known-layer.js"
import type { LazyImage } from "../lazy/lazy-image.js"
import type { StoreOptions } from "../store/open-store.js"
import { ImageStore } from "../store/store.js"
import { MEMORY, type TestLayer, TestLayout, temporaryFolder } from "./images.js"
import { LazySource } from "./lazy-source.js"

const sources: LazySource[] = []

afterEach(async () => {
  for (const source of sources.splice(0)) await source[Symbol.asyncDispose]()
})

/** A store, and an image that it does not have. */
export interface LazyStore {
  readonly folder: string
  readonly store: ImageStore
  readonly source: LazySource
  readonly reports: LazyLayerReport[]
  open(): Promise<LazyImage | undefined>
  /** Names of what is on its way into the store. */
  temporary(): string[]
}

/** Makes an image of layers, and an empty store. */
export async function lazyStore(
  layers: readonly TestLayer[],
  options: StoreOptions = {},
): Promise<LazyStore> {
  const folder = temporaryFolder(MEMORY)
  const layout = new TestLayout(join(folder, "layout"))
  layout.image(layers)
  const store = await ImageStore.open(join(folder, "store"), options)
  const source = await LazySource.open(layout)
  sources.push(source)
  const reports: LazyLayerReport[] = []
  return {
    ...{ folder, store, source, reports },
    open: () => store.openLazy(source, { onLayer: report => reports.push(report) }),
    temporary: () => readdirSync(join(folder, "store/tmp")),
  }
}
