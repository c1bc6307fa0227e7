import type { LazyLayerReport } from "@ts-vmm/oci-image"
import { escapeControls } from "@ts-vmm/runtime"

/**
 * Says in one line how an image was begun with that was not there: always when it had to be pulled whole, and why; else
 * where its layers are known from, for those who ask.
 */
export function tellLazyStart(
  reports: readonly LazyLayerReport[],
  { json, debug }: { readonly json?: boolean; readonly debug?: boolean },
): void {
  if (reports.length === 0) return
  const whole = reports.find(({ by }) => by === "whole")
  const reason = whole?.reason && escapeControls(whole.reason.message)
  if (json) {
    const layers = reports.map(({ layer, by, reason: why }) => ({
      layer,
      by,
      ...(why ? { code: why.code } : {}),
    }))
    console.error(JSON.stringify({ event: "lazy", begun: !whole, ...(reason ? { reason } : {}), layers }))
  } else if (whole) console.error(`pulled whole, not --lazy: ${reason}`)
  else if (debug) console.error(`begun with before it is there: ${countBases(reports)}`)
}

/** `3 layers by estargz, 1 by kept-index` */
function countBases(reports: readonly LazyLayerReport[]): string {
  const counts = new Map<string, number>()
  for (const { by } of reports) counts.set(by, (counts.get(by) ?? 0) + 1)
  return [...counts].map(([by, count]) => `${count} ${count === 1 ? "layer" : "layers"} by ${by}`).join(", ")
}
