import { escapeControls, type Sandbox } from "@ts-vmm/runtime"
import { pino } from "pino"

/** Logs a sandbox's life and its guest's console to stderr, as JSON lines. */
export function startDebugLog(sandbox: Sandbox): void {
  const log = pino({ level: "debug", base: { sandbox: sandbox.id } }, process.stderr)
  log.debug({ timings: sandbox.timings, hypervisor: sandbox.hypervisor }, "ready")
  sandbox.on("console", chunk => log.debug({ console: escapeControls(chunk.toString("utf8")) }))
  sandbox.on("exit", reason => log.debug(reason, "ended"))
}
