import { accessSync, constants, statSync } from "node:fs"
import { join } from "node:path"
import { CniError, type CniErrorDetails } from "./errors.js"
import { type JsonObject, shown } from "./json.js"
import { isPluginName } from "./names.js"
import { type ProgramEnd, runProgram } from "./run-program.js"

/** What a plugin is asked to do (CNI 1.0.0, section 2 "Execution protocol"). */
export type CniCommand = "ADD" | "CHECK" | "DEL" | "VERSION"

/** One call of a plugin. */
export interface PluginCall {
  readonly command: CniCommand
  readonly type: string
  /** For its stdin. */
  readonly configuration: JsonObject
  /** CNI_CONTAINERID and the like. */
  readonly env: Readonly<Record<string, string>>
  readonly signal?: AbortSignal | undefined
}

/** How plugins are run. */
export interface PluginHost {
  readonly pluginDirs: readonly string[]
  readonly timeoutMs: number
  readonly maxOutputBytes: number
  readonly launcher: string | undefined
}

/** Where plugins find iptables and the like when the environment says nothing. */
const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
const MAX_WORDS = 500

/**
 * The plugin's program, in the first folder that has it.
 *
 * @throws CniError `invalid-argument`, `plugin-missing`
 */
export function findPlugin(type: string, pluginDirs: readonly string[]): string {
  if (!isPluginName(type)) throw new CniError("invalid-argument", `the name of a plugin is ${shown(type)}`)
  for (const folder of pluginDirs) {
    const path = join(folder, type)
    if (isProgram(path)) return path
  }
  throw new CniError("plugin-missing", `${type} is no program in ${pluginDirs.join(", ")}`, { plugin: type })
}

/**
 * Runs a plugin once. It sees its configuration, the variables of the protocol and PATH, and nothing else of ours.
 *
 * @returns what it wrote to stdout
 * @throws CniError `plugin-…`, `aborted`, `invalid-argument`
 */
export async function invoke(host: PluginHost, call: PluginCall): Promise<string> {
  const end = await runProgram({
    path: findPlugin(call.type, host.pluginDirs),
    env: {
      PATH: process.env["PATH"] || DEFAULT_PATH,
      CNI_COMMAND: call.command,
      CNI_PATH: host.pluginDirs.join(":"),
      ...call.env,
    },
    stdin: JSON.stringify(call.configuration),
    timeoutMs: host.timeoutMs,
    maxOutputBytes: host.maxOutputBytes,
    launcher: host.launcher,
    signal: call.signal,
  })
  if (end.how === "exited" && end.exitCode === 0) return end.stdout
  throw failure(host, call, end)
}

function failure(host: PluginHost, { type: plugin, command }: PluginCall, end: ProgramEnd): CniError {
  const what = `${plugin}: ${command}`
  const details = { plugin, ...(end.stderr ? { details: words(end.stderr) } : {}) }
  switch (end.how) {
    case "timeout":
      return new CniError("plugin-timeout", `${what} took longer than ${host.timeoutMs} ms`, details)
    case "output":
      return new CniError("plugin-output", `${what} wrote more than ${host.maxOutputBytes} bytes`, details)
    case "aborted":
      return new CniError("aborted", `${what} was aborted`, details)
    case "not-started":
      return new CniError("plugin-failed", `${what} could not be started: ${words(end.stderr)}`, details)
    case "exited":
      return refusal(what, end, details)
  }
}

/** A plugin that fails says why on stdout (CNI 1.0.0, section 5 "Error"); its words are a stranger's. */
function refusal(what: string, { stdout, stderr, exitCode }: ProgramEnd, known: CniErrorDetails): CniError {
  const { code, msg, details } = saidError(stdout)
  const why = words(msg) || words(stderr) || `exit code ${exitCode ?? "none, killed by a signal"}`
  return new CniError("plugin-failed", `${what} failed: ${why}`, {
    ...known,
    ...(typeof code === "number" && Number.isInteger(code) ? { pluginCode: code } : {}),
    ...(words(details) ? { details: words(details) } : {}),
  })
}

function saidError(stdout: string): { code?: unknown; msg?: unknown; details?: unknown } {
  try {
    const said: unknown = JSON.parse(stdout)
    return typeof said === "object" && said !== null ? said : {}
  } catch {
    return {}
  }
}

/** One line without control characters. */
function words(text: unknown): string {
  if (typeof text !== "string") return ""
  const isPlain = (c: string) => c >= " " && !(c >= "\x7f" && c <= "\x9f")
  return [...text.slice(-4 * MAX_WORDS)]
    .map(c => (isPlain(c) ? c : " "))
    .join("")
    .replaceAll(/ {2,}/g, " ")
    .trim()
    .slice(0, MAX_WORDS)
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}
