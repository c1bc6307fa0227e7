import type { LoadProgress } from "@ts-vmm/oci-image"
import { size } from "./words.js"

/** Work that takes less is not worth a spinner. */
const QUIET_MS = 300

/** A line on a terminal that says what takes its time. */
export interface Progress {
  /** Changes the text. */
  show(text: string): void
  stop(): void
}

/** Shows progress on a terminal; elsewhere it shows nothing, so that logs stay clean. */
export function startProgress(text: string): Progress {
  if (!process.stderr.isTTY) return { show: () => undefined, stop: () => undefined }
  let current = text
  let stopped = false
  let spinner: { text: string; stop(): unknown } | undefined
  const timer = setTimeout(async () => {
    const { default: ora } = await import("ora")
    if (!stopped) spinner = ora({ text: current, stream: process.stderr, discardStdin: false }).start()
  }, QUIET_MS)
  return {
    show(next) {
      current = next
      if (spinner) spinner.text = next
    },
    stop() {
      stopped = true
      clearTimeout(timer)
      spinner?.stop()
    },
  }
}

/** Adds up layers that arrive several at once. */
export class LayerSums {
  readonly #layers = new Map<number, LoadProgress>()

  /** @returns what there is to say of all of them */
  add(progress: LoadProgress): string {
    this.#layers.set(progress.position, progress)
    const all = [...this.#layers.values()]
    const there = all.filter(({ state }) => state === "done" || state === "exists").length
    const coming = all.filter(({ state }) => state !== "exists")
    const sum = (of: "done" | "total") => size(coming.reduce((bytes, layer) => bytes + layer[of], 0))
    return `loading the image: ${there} of ${progress.layers} layers, ${sum("done")} of ${sum("total")}`
  }
}
