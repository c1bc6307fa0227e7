import type { LoadProgress } from "@ts-vmm/oci-image"
import type { MultiBar, SingleBar } from "cli-progress"
import { shortId } from "./store.js"
import { size } from "./words.js"

/** What is shown of layers on their way; it goes to stderr, since stdout has the result. */
export interface LayerReport {
  show(progress: LoadProgress): void
  /** Tells of trouble that was got around. */
  warn(warning: Warning): void
  stop(): void
}

/** As the packages' errors are. */
interface Warning {
  readonly code: string
  readonly message: string
}

/** Which of the reports: none for `-q`, events for `--json`, else bars on a terminal and lines elsewhere. */
export async function startLayerReport(options: { quiet?: boolean; json?: boolean }): Promise<LayerReport> {
  if (options.json) return new EventReport()
  if (options.quiet) return { show: () => undefined, warn: printWarning, stop: () => undefined }
  if (!process.stderr.isTTY) return new LineReport()
  const { MultiBar } = await import("cli-progress")
  return new BarReport(
    new MultiBar({ stream: process.stderr, format: BAR, hideCursor: true, forceRedraw: true, fps: 10 }),
  )
}

function printWarning({ message }: Warning): void {
  console.error(`WARNING: ${message}`)
}

const BAR = "{id}: {state} {bar} {bytes}"

/** Words of docker's. */
const STATES = {
  waiting: "Waiting",
  reading: "Pulling",
  done: "Pull complete",
  exists: "Already exists",
} as const

/** A bar for each layer. */
class BarReport implements LayerReport {
  readonly #bars: MultiBar
  readonly #layers = new Map<number, SingleBar>()

  constructor(bars: MultiBar) {
    this.#bars = bars
  }

  show(progress: LoadProgress): void {
    const { position, layer, state, done, total } = progress
    const fields = {
      id: shortId(layer),
      state: STATES[state].padEnd(14),
      bytes: `${size(done)}/${size(total)}`,
    }
    const bar = this.#layers.get(position) ?? this.#bars.create(total, 0, fields)
    this.#layers.set(position, bar)
    bar.update(state === "exists" ? total : done, fields)
  }

  warn({ message }: Warning): void {
    this.#bars.log(`WARNING: ${message}\n`)
  }

  stop(): void {
    this.#bars.stop()
  }
}

/** A line for each layer that is there, for logs. */
class LineReport implements LayerReport {
  show({ layer, state }: LoadProgress): void {
    if (state === "done" || state === "exists") console.error(`${shortId(layer)}: ${STATES[state]}`)
  }

  warn(warning: Warning): void {
    printWarning(warning)
  }

  stop(): void {
    // Every line was written when it was true.
  }
}

/** How long an event that only tells of more bytes waits for the next. */
const EVENT_GAP_MS = 500

/** A line of JSON for every change. */
class EventReport implements LayerReport {
  readonly #last = new Map<number, { state: string; at: number }>()

  show({ position, layers, layer, state, done, total }: LoadProgress): void {
    const last = this.#last.get(position)
    const at = performance.now()
    if (last?.state === state && at - last.at < EVENT_GAP_MS) return
    this.#last.set(position, { state, at })
    console.error(JSON.stringify({ event: "layer", layer, position, layers, state, done, total }))
  }

  warn({ code, message }: Warning): void {
    console.error(JSON.stringify({ event: "warning", code, message }))
  }

  stop(): void {
    // Every line was written when it was true.
  }
}
