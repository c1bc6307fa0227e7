import { createHash } from "node:crypto"
import { stat } from "node:fs/promises"
import type { Digest } from "../digest.js"
import type { ReadableDisk } from "../erofs/disk-contents.js"
import { ImageError, isImageError } from "../errors.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import type { Attachments } from "./attachments.js"
import { rootTar } from "./root-tar.js"
import type { ScanCommand } from "./scan-command.js"
import { type ScanVerdict, scanRoot } from "./scan-root.js"

/** An image that a {@link Scanner} looks into. */
export interface ScanSubject {
  /** An image: a `StoredImage` or `LazyImage` is one. */
  readonly image: { readonly digest: Digest; disk(): ReadableDisk }
  /** Its name, for messages and for the program; empty when it has none. */
  readonly name: string
  /** Where verdicts on this image are kept. */
  readonly attachments: Attachments
  readonly signal?: AbortSignal
}

const REASON_MAX = 16 * 1024

/**
 * Lets a program look into images before their first use: once for each image and program. Verdicts are kept, failures
 * are not. A program with other arguments, another environment, or another file counts as another one.
 *
 * @example
 * ```ts
 * import { ImageStore } from "@ts-vmm/oci-image"
 * import { folderAttachments, loadPolicy, Scanner } from "@ts-vmm/oci-image/policy"
 *
 * const { scan } = loadPolicy("./policy.json")
 * const store = await ImageStore.open("./store")
 * const image = await store.get("debian:12")
 * if (scan && image) {
 *   const attachments = folderAttachments("./trust", image.digest)
 *   await new Scanner(scan).check({ image, name: "debian:12", attachments })
 * }
 * ```
 */
export class Scanner {
  readonly #command: ScanCommand
  readonly #running = new Map<Digest, Promise<unknown>>()

  constructor(command: ScanCommand) {
    this.#command = command
  }

  /**
   * Returns when the program accepts the image, now or before.
   *
   * @throws ImageError `scan-refused` with what it said, `scan-failed`; `io` when verdicts cannot be kept; the signal's
   * reason
   */
  async check(subject: ScanSubject): Promise<void> {
    const { digest } = subject.image
    // One at a time for each image: who comes second finds the verdict.
    for (let other = this.#running.get(digest); other; other = this.#running.get(digest)) await other
    const scan = this.#verdict(subject)
    const settled = scan.then(
      () => undefined,
      () => undefined,
    )
    this.#running.set(digest, settled)
    try {
      const verdict = await scan
      if (!verdict.accepted) throw this.#refused(subject, verdict.reason)
    } finally {
      this.#running.delete(digest)
    }
  }

  async #verdict({ image, name, attachments, signal }: ScanSubject): Promise<ScanVerdict> {
    signal?.throwIfAborted()
    const program = await commandHash(this.#command)
    const file = `scan-${program}.json`
    const known = readVerdict(await attachments.get(file), image.digest, program)
    if (known) return known
    const root = rootTar(image.disk())
    const verdict = await scanRoot({ ...this.#command, root, image: name, digest: image.digest, signal })
    await attachments.set(file, encodeVerdict(verdict, image.digest, program))
    return verdict
  }

  #refused({ image: { digest }, name }: ScanSubject, reason: string): ImageError {
    const { command } = this.#command
    const what = name === "" ? digest : `${name} (${digest})`
    const said = reason === "" ? "without saying why" : `saying: ${reason}`
    const message = `${command} refuses ${what}, ${said}; use another image, or change the program's own rules`
    return new ImageError("scan-refused", message, { command, image: name, digest, reason })
  }
}

/**
 * What tells one program from another: its command line, its environment, and the file that is run.
 *
 * @throws ImageError `scan-failed` when the file is not there
 */
async function commandHash({ command, args, env }: ScanCommand): Promise<string> {
  const file = await stat(command, { bigint: true }).catch(cause => {
    const { code = "" } = cause as NodeJS.ErrnoException
    const message = `${command}, which looks into images, cannot be found (${code}): no image is accepted without it`
    throw new ImageError("scan-failed", message, { command, errno: code }, { cause })
  })
  const { dev, ino, size, mtimeNs, ctimeNs } = file
  const stamp = [dev, ino, size, mtimeNs, ctimeNs].map(String)
  const sorted = Object.entries(env).sort(([a], [b]) => (a < b ? -1 : 1))
  return createHash("sha256")
    .update(JSON.stringify([command, args, sorted, stamp]))
    .digest("hex")
}

function encodeVerdict(verdict: ScanVerdict, digest: Digest, program: string): Buffer {
  return Buffer.from(JSON.stringify({ version: 1, digest, program, ...verdict }))
}

/** A verdict that was kept; anything else, what a power cut left for instance, counts as none. */
function readVerdict(
  bytes: Uint8Array | undefined,
  digest: Digest,
  program: string,
): ScanVerdict | undefined {
  if (!bytes) return undefined
  try {
    const fields = new Fields(parseJsonObject(bytes, "verdict"), "verdict", "store-corrupt")
    const own = { version: 1, digest, program }
    if (Object.entries(own).some(([key, value]) => fields.raw(key) !== value)) return undefined
    const accepted = fields.raw("accepted")
    if (accepted === true) return { accepted }
    return accepted === false ? { accepted, reason: fields.string("reason", REASON_MAX) ?? "" } : undefined
  } catch (error) {
    if (isImageError(error)) return undefined
    throw error
  }
}
