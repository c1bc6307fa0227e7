import type { Digest } from "../digest.js"
import { ImageError, isImageError } from "../errors.js"
import type { ScanCommand } from "./scan-command.js"
import { runScanner, type ScanExit } from "./scan-process.js"

/** What a scanner says of an image. */
export type ScanVerdict =
  | { readonly accepted: true }
  /** `reason`: the first lines that it wrote to its standard error, printable. */
  | { readonly accepted: false; readonly reason: string }

/** What {@link scanRoot} runs, and on what. */
export interface ScanOptions extends ScanCommand {
  /** The image's root as a tar stream: `rootTar`. */
  readonly root: AsyncIterable<Buffer>
  /** The image's name, for `TS_VMM_IMAGE`; empty when it has none. */
  readonly image: string
  /** Its manifest's digest, for `TS_VMM_DIGEST`. */
  readonly digest: Digest
  readonly signal?: AbortSignal | undefined
}

const ACCEPTED = 0
const REFUSED = 1
const LINES_MAX = 8
const LINE_MAX = 200

/**
 * Lets a program look into an image: it gets the image's root as a tar stream on its standard input, and says what it
 * thinks by its exit status: 0 accepts, 1 refuses. Anything else is a failure, and a failure is no acceptance.
 *
 * @throws ImageError `scan-failed` when it cannot be started, takes too long, is killed, or exits otherwise; what
 * reading the image throws; the signal's reason
 * @example
 * ```ts
 * import { ImageStore } from "@ts-vmm/oci-image"
 * import { rootTar, scanRoot } from "@ts-vmm/oci-image/policy"
 *
 * const store = await ImageStore.open("./store")
 * const image = await store.get("debian:12")
 * if (image) {
 *   const program = { command: "/usr/local/bin/look", args: [], timeoutMs: 60_000, env: {} }
 *   const root = rootTar(image.disk())
 *   console.log(await scanRoot({ ...program, root, image: "debian:12", digest: image.digest }))
 * }
 * ```
 */
export async function scanRoot(options: ScanOptions): Promise<ScanVerdict> {
  const exit = await run(options)
  if (exit.timedOut) throw failed(options, `takes longer than ${options.timeoutMs} ms`, exit)
  // What could not be read to the end cannot be judged, whatever the program says.
  if (exit.broken !== undefined) throw unreadable(options, exit.broken)
  if (exit.signal) throw failed(options, `was killed by ${exit.signal}`, exit)
  if (exit.code === ACCEPTED) return { accepted: true }
  if (exit.code === REFUSED) return { accepted: false, reason: firstLines(exit.stderr) }
  throw failed(options, `exits with ${exit.code}, which is neither 0 (accepted) nor 1 (refused)`, exit)
}

async function run(options: ScanOptions): Promise<ScanExit> {
  const env = { TS_VMM_IMAGE: options.image, TS_VMM_DIGEST: options.digest }
  try {
    return await runScanner(options, options.root, env, options.signal)
  } catch (error) {
    options.signal?.throwIfAborted()
    const { code = "" } = error as NodeJS.ErrnoException
    const { command } = options
    const message = `${what(options)}: ${command} cannot be started (${code}); see that it is there and may be run`
    throw new ImageError(
      "scan-failed",
      message,
      { command, digest: options.digest, errno: code },
      { cause: error },
    )
  }
}

function unreadable(options: ScanOptions, cause: unknown): ImageError {
  const { command, digest } = options
  const why = isImageError(cause) ? `: ${cause.message}` : ""
  const message = `${what(options)}: the image cannot be read${why}; pull it again`
  return new ImageError("scan-failed", message, { command, digest }, { cause })
}

function failed(options: ScanOptions, how: string, { stderr }: ScanExit): ImageError {
  const { command, digest } = options
  const lines = firstLines(stderr)
  const said = lines === "" ? "" : `, saying: ${lines}`
  const message = `${what(options)}: ${command} ${how}${said}; without its verdict the image does not run`
  return new ImageError("scan-failed", message, { command, digest })
}

function what({ image, digest }: ScanOptions): string {
  return `cannot look into ${image === "" ? digest : `${image} (${digest})`}`
}

/** Lines of a program for a message: bounded, and nothing in them moves a cursor. */
function firstLines(bytes: Buffer): string {
  const lines = bytes.toString("utf8").split(/\r?\n/)
  const shown = lines.map(line => line.trim()).filter(line => line !== "")
  return shown
    .slice(0, LINES_MAX)
    .map(line => line.slice(0, LINE_MAX).replace(/[^\x20-\x7e]/g, escapeCharacter))
    .join(" / ")
}

function escapeCharacter(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
}
