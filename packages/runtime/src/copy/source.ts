import { realpath } from "node:fs/promises"
import { resolve } from "node:path"
import { gather, type PackItem, rewriteTar, tarStream, walkTree } from "@ts-vmm/oci-image/tar"
import { copyError, fromCopyError } from "./copy-error.js"
import { meansContents, ownName, shown } from "./names.js"

/** What goes into a container, in the one form that the agent reads, and how it lands. */
export interface PreparedCopy {
  /** The name that all names of the stream begin with; `""` for an archive, which goes into a folder as it is. */
  readonly name: string
  /** Of a folder: what is in it goes into a folder that is there. */
  readonly contents: boolean
  readonly tar: AsyncIterable<Uint8Array>
}

/** How a source is read. */
export interface SourceOptions {
  readonly followLink?: boolean
}

/** Small pieces are sent together. */
const PIECE = 64 * 1024

/**
 * Prepares a file or folder of the host, or somebody's tar stream.
 *
 * Reading it throws SandboxError `copy-failed`.
 */
export function prepareCopy(
  source: string | AsyncIterable<Uint8Array>,
  { followLink = false }: SourceOptions = {},
): PreparedCopy {
  if (typeof source !== "string") return { name: "", contents: false, tar: told(rewriteTar(source)) }
  const name = ownName(resolve(source)) || "root"
  return { name, contents: meansContents(source), tar: told(gather(packed(source, name, followLink), PIECE)) }
}

async function* packed(source: string, name: string, followLink: boolean): AsyncGenerator<Buffer> {
  const path = followLink ? await realpath(source) : source
  yield* tarStream(withoutDevices(walkTree(path, Buffer.from(name).toString("latin1"))))
}

async function* withoutDevices(items: AsyncIterable<PackItem>): AsyncGenerator<PackItem> {
  for await (const item of items) {
    const { type, path } = item.header
    if (type === "char" || type === "block") throw copyError(shown(path), "it is a device")
    yield item
  }
}

async function* told(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  try {
    yield* chunks
  } catch (error) {
    throw fromCopyError(error)
  }
}
