/** A process that loads images as it is told, one at a time: see store/share.test.ts. */
import { mkdirSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { setTimeout as sleep } from "node:timers/promises"
import { LayoutFolder, LayoutSource } from "../sources/layout.js"
import type { ImageSource } from "../sources/source.js"
import { ImageStore } from "../store/store.js"

/** What to load, and where to. */
export interface LoadOrder {
  readonly layout: string
  readonly store: string
  readonly name: string
  /** A folder where two processes meet when both have seen that the image is not there. */
  readonly meetsAt?: string
  /** Digest of a layer of which only the first bytes ever come. */
  readonly hangsAt?: string
}

/** What came of it: the last state of each layer, and how many were read. */
export interface LoadReport {
  readonly digest: string
  readonly states: readonly string[]
  readonly read: readonly number[]
}

say("ready")
for await (const line of createInterface({ input: process.stdin })) say(await load(JSON.parse(line)))

function say(what: string | LoadReport): void {
  process.stdout.write(`${JSON.stringify(what)}\n`)
}

async function load({ layout, store, name, ...trap }: LoadOrder): Promise<LoadReport> {
  const opened = await ImageStore.open(store)
  const files = new LayoutSource(await LayoutFolder.open(layout))
  const states: string[] = []
  const read = new Set<number>()
  const { digest } = await opened.load(trapped(files, trap), {
    name,
    onProgress({ position, state }) {
      states[position] = state
      if (state === "reading") read.add(position)
    },
  })
  await files[Symbol.asyncDispose]()
  return { digest, states, read: [...read].sort() }
}

function trapped(
  files: LayoutSource,
  { meetsAt, hangsAt }: Pick<LoadOrder, "meetsAt" | "hangsAt">,
): ImageSource {
  let isFirst = true
  return {
    locate: options => files.locate(options),
    blobs: {
      async *open(request) {
        if (isFirst && meetsAt) await meet(meetsAt)
        isFirst = false
        for await (const chunk of files.blobs.open(request)) {
          if (request.digest === hangsAt) await hang()
          yield chunk
        }
      },
    },
    [Symbol.asyncDispose]: () => files[Symbol.asyncDispose](),
  }
}

async function meet(folder: string): Promise<void> {
  mkdirSync(join(folder, `${process.pid}`), { recursive: true })
  while (readdirSync(folder).length < 2) await sleep(1)
}

async function hang(): Promise<void> {
  say("hangs")
  await sleep(2 ** 31 - 1)
}
