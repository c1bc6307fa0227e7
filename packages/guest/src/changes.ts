import { GuestError } from "./errors.js"

/** One path that a container changed of its image. */
export interface ContainerChange {
  readonly kind: "added" | "changed" | "deleted"
  /** Absolute, in the container. Bytes that are not UTF-8 read as U+FFFD; control characters are possible. */
  readonly path: string
}

/** What the agent may send: the limits of an image's layer. */
const CHANGES_MAX = 1_000_000
const BYTES_MAX = 128 * 1024 * 1024
const PATH_MAX = 4096
const NAME_MAX = 255

const KINDS: ReadonlyMap<number, ContainerChange["kind"]> = new Map([
  [0x41, "added"],
  [0x43, "changed"],
  [0x44, "deleted"],
])

/**
 * Reads what `ListChanges` sends: a letter, a path and a NUL for each change. It comes from a guest: what cannot be true
 * is refused, and so is more than a layer may hold.
 *
 * @example
 * ```ts
 * import { ChangeListReader } from "@ts-vmm/guest"
 *
 * const reader = new ChangeListReader()
 * reader.push(Buffer.from("Cetc\0Aetc/new\0"))
 * console.log(reader.end())
 * ```
 */
export class ChangeListReader {
  readonly #changes: ContainerChange[] = []
  #rest: Buffer = Buffer.alloc(0)
  #bytes = 0

  /** Takes the next bytes of the stream. @throws GuestError "bad-reply" */
  push(chunk: Uint8Array): void {
    this.#bytes += chunk.length
    if (this.#bytes > BYTES_MAX) throw bad(`changes of more than ${BYTES_MAX} bytes`)
    const bytes = Buffer.concat([this.#rest, chunk])
    let at = 0
    for (let end = bytes.indexOf(0); end >= 0; end = bytes.indexOf(0, at)) {
      this.#add(bytes.subarray(at, end))
      at = end + 1
    }
    // A copy, so that no chunk is kept for a few bytes of it.
    this.#rest = Buffer.from(bytes.subarray(at))
    if (this.#rest.length > PATH_MAX + 1) throw bad("a path without an end")
  }

  /** What came, sorted by path. @throws GuestError "bad-reply" when the stream ends within a change */
  end(): ContainerChange[] {
    if (this.#rest.length > 0) throw bad("changes that end within a path")
    return this.#changes.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))
  }

  #add(record: Buffer): void {
    const kind = KINDS.get(record[0] ?? 0)
    if (kind === undefined) throw bad("a change of no known kind")
    if (this.#changes.length >= CHANGES_MAX) throw bad(`more than ${CHANGES_MAX} changes`)
    const path = record.subarray(1)
    if (path.length > PATH_MAX || !path.toString("latin1").split("/").every(isName))
      throw bad("a change of something that is no path")
    this.#changes.push({ kind, path: `/${path.toString("utf8")}` })
  }
}

function isName(name: string): boolean {
  return name !== "" && name !== "." && name !== ".." && name.length <= NAME_MAX
}

function bad(what: string): GuestError {
  return new GuestError("bad-reply", `the agent sent ${what}`)
}
