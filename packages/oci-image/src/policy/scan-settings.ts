import { isAbsolute } from "node:path"
import { DEFAULT_SCAN_TIMEOUT_MS, SCAN_TIMEOUT_MAX_MS, type ScanCommand } from "./scan-command.js"
import type { PlacedJson, StrictReader } from "./strict-json.js"

const SCAN_KEYS = ["command", "args", "timeoutMs", "env"]
const ARGS_MAX = 256
const ENV_MAX = 256
const TEXT_MAX = 4096
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/
/** Names in the environment that are ours to set. */
const OWN_PREFIX = "TS_VMM_"

/** Reads the `scan` part of a policy file. @throws ImageError `policy-invalid` */
export function readScanCommand(read: StrictReader, at: PlacedJson): ScanCommand {
  const fields = read.object(at, SCAN_KEYS)
  const command = read.need(at, fields, "command")
  const path = read.text(command, TEXT_MAX)
  if (!isAbsolute(path)) throw read.bad(command, "is no absolute path")
  const args = fields.get("args")
  const timeout = fields.get("timeoutMs")
  const env = fields.get("env")
  return {
    command: path,
    args: args ? read.list(args, ARGS_MAX).map(arg => read.text(arg, TEXT_MAX)) : [],
    timeoutMs: timeout ? readTimeout(read, timeout) : DEFAULT_SCAN_TIMEOUT_MS,
    env: env ? readEnvironment(read, env) : {},
  }
}

function readTimeout(read: StrictReader, at: PlacedJson): number {
  const { value } = at
  if (typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= SCAN_TIMEOUT_MAX_MS)
    return value
  throw read.bad(at, `is no whole number of milliseconds from 1 to ${SCAN_TIMEOUT_MAX_MS}`)
}

function readEnvironment(read: StrictReader, at: PlacedJson): Record<string, string> {
  const entries = [...read.object(at)]
  if (entries.length > ENV_MAX) throw read.bad(at, `has ${entries.length} names, more than ${ENV_MAX}`)
  return Object.fromEntries(entries.map(([name, value]) => [name, readVariable(read, name, value)]))
}

function readVariable(read: StrictReader, name: string, at: PlacedJson): string {
  if (!ENV_NAME.test(name) || name.length > TEXT_MAX) throw read.bad(at, "is no name of a variable")
  if (name.startsWith(OWN_PREFIX))
    throw read.bad(at, `is set by ts-vmm: names with ${OWN_PREFIX} are its own`)
  return read.text(at, TEXT_MAX)
}
