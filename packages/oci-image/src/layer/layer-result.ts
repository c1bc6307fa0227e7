import { ImageError, type ImageErrorCode, isImageError } from "../errors.js"
import { type JsonObject, parseJsonObject } from "../spec/json.js"

/** Bytes of a result line, more than any well-behaved process writes. */
export const RESULT_MAX = 16 * 1024
const MESSAGE_MAX = 1000
const FIELD_MAX = 200
const FIELDS_MAX = 8

/** What reading a layer can be refused for. A process that reads one is believed nothing else. */
const CODES: ReadonlySet<string> = new Set<ImageErrorCode>([
  "digest-invalid",
  "media-type",
  "compression-invalid",
  "tar-header",
  "tar-checksum",
  "tar-number",
  "tar-pax",
  "tar-disagrees",
  "tar-type",
  "tar-size",
  "tar-sparse",
  "tar-truncated",
  "tar-trailing-data",
  "entry-name",
  "entry-escapes",
  "entry-through-link",
  "entry-device",
  "entry-xattr",
  "link-target",
  "whiteout",
  "toc-invalid",
  "limit",
  "io",
])

/** What became of a layer. */
export interface LayerResult {
  /** Bytes of memory that the process had at most. */
  readonly peak: number
  /** Why the layer was refused; undefined when it was read. */
  readonly error: ImageError | undefined
}

/** One line of JSON for the process that asked. */
export function encodeResult(peak: number, error?: unknown): string {
  if (error === undefined) return `${JSON.stringify({ peak })}\n`
  const { code, message, fields } = isImageError(error)
    ? error
    : { code: "failed", message: String(error), fields: {} }
  const told = Object.entries(fields).map(([key, value]) => [
    key,
    typeof value === "string" ? value.slice(0, FIELD_MAX) : value,
  ])
  const failure = { code, message: message.slice(0, MESSAGE_MAX), fields: Object.fromEntries(told) }
  return `${JSON.stringify({ peak, error: failure })}\n`
}

/**
 * Reads such a line, which may come from a process that an image took over.
 *
 * @throws ImageError `layer-process` for anything but a well-formed result
 */
export function parseResult(bytes: Buffer): LayerResult {
  let json: JsonObject
  try {
    json = parseJsonObject(bytes, "result")
  } catch (cause) {
    throw new ImageError("layer-process", "process that reads layers gave no result", {}, { cause })
  }
  const { peak, error } = json
  if (typeof peak !== "number") throw strange()
  return { peak, error: error === undefined ? undefined : parseError(error) }
}

function parseError(json: unknown): ImageError {
  if (typeof json !== "object" || json === null) throw strange()
  const { code, message, fields } = json as Record<string, unknown>
  if (typeof code !== "string" || typeof message !== "string" || typeof fields !== "object") throw strange()
  if (code === "failed") return new ImageError("layer-process", `reading a layer failed: ${plain(message)}`)
  if (!CODES.has(code)) throw strange()
  const known = Object.entries(fields ?? {})
    .filter(isField)
    .slice(0, FIELDS_MAX)
  return new ImageError(code as ImageErrorCode, plain(message), Object.fromEntries(known))
}

function isField(entry: [string, unknown]): entry is [string, number | string] {
  const [key, value] = entry
  if (!/^[a-zA-Z]{1,20}$/.test(key)) return false
  return typeof value === "number" || (typeof value === "string" && value.length <= FIELD_MAX)
}

/** Nothing that moves a cursor. */
function plain(message: string): string {
  return message.slice(0, MESSAGE_MAX).replace(/[^\x20-\x7e]/g, "?")
}

function strange(): ImageError {
  return new ImageError("layer-process", "process that reads layers gave a result that makes no sense")
}
