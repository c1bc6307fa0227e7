import type { LoadProgress } from "@ts-vmm/oci-image"
import { MultiBar, type SingleBar } from "cli-progress"
import type { LayerReport, Warning } from "./layer-report.js"
import { STATES } from "./layer-states.js"
import { shortId } from "./store.js"
import { size } from "./words.js"

const BAR = "{id}: {state} {bar} {bytes}"

/** A bar for each layer. */
export class BarReport implements LayerReport {
  readonly #bars = new MultiBar({
    stream: process.stderr,
    format: BAR,
    hideCursor: true,
    forceRedraw: true,
    fps: 10,
  })
  readonly #layers = new Map<number, SingleBar>()

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
