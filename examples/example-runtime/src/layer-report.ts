import type { LoadProgress } from "@ts-vmm/oci-image"
import { STATES } from "./layer-states.js"
import { shortId } from "./store.js"

/** What is shown of layers on their way; it goes to stderr, since stdout has the result. */
export interface LayerReport {
  show(progress: LoadProgress): void
  /** Tells of trouble that was got around. */
  warn(warning: Warning): void
  stop(): void
}

/** As the packages' errors are. */
export interface Warning {
  readonly code: string
  readonly message: string
}

/** Which of the reports: none for `-q`, events for `--json`, else bars on a terminal and lines elsewhere. */
export async function startLayerReport(options: { quiet?: boolean; json?: boolean }): Promise<LayerReport> {
  if (options.json) return new EventReport()
  if (options.quiet) return { show: () => undefined, warn: printWarning, stop: () => undefined }
  if (!process.stderr.isTTY) return new LineReport()
  return new (await import("./layer-bars.js")).BarReport()
}

function printWarning({ message }: Warning): void {
  console.error(`WARNING: ${message}`)
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
