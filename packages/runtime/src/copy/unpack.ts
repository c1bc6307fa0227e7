import { DEFAULT_LIMITS } from "@ts-vmm/oci-image"
import { copyError, fromCopyError } from "./copy-error.js"

/** What {@link unpackCopy} goes by. */
export interface UnpackOptions {
  /** What was copied: the path that `copyOut` was given. `folder/.` means what is in the folder. */
  readonly path: string
  /** Owners are those of the container; only root can give files away. Default: everything belongs to who unpacks. */
  readonly archive?: boolean
  /** Most bytes of content. Default 64 GiB. */
  readonly maxBytes?: number
  /** Told of what is left out, quoted for a terminal: devices, FIFOs and hard links to them. */
  readonly onSkip?: (path: string) => void
}

/** What was copied. */
export interface CopySummary {
  /** Of the tar stream. */
  readonly bytes: number
}

/**
 * Unpacks what `copyOut` gives, by docker's rules: into `target` if that is a folder, else under its name. Mode and times
 * to the nanosecond are kept, hard links and symbolic links too.
 *
 * The stream may be as hostile as a guest can make it: no name and no link leads outside the target, what is there is
 * replaced and not written to, setuid and setgid bits are taken away. Symbolic links keep their text, wherever it points:
 * follow them with care. What was made before a failure stays.
 *
 * @param target - path of the host; its own links are followed
 * @throws SandboxError `copy-failed`, `no-space`, and what the stream throws
 * @example
 * ```ts
 * import { unpackCopy } from "@ts-vmm/runtime"
 *
 * await unpackCopy(container.copyOut("/var/log"), "./logs", { path: "/var/log" })
 * ```
 */
export async function unpackCopy(
  stream: AsyncIterable<Uint8Array>,
  target: string,
  options: UnpackOptions,
): Promise<CopySummary> {
  const { path, archive = false, maxBytes = DEFAULT_LIMITS.layerBytes, onSkip = () => undefined } = options
  // Loaded when they are needed: a start does not pay for them.
  const { TarReader } = await import("@ts-vmm/oci-image/tar")
  const { TreeWriter } = await import("./tree-writer.js")
  const writer = new TreeWriter(target, { path, archive, maxBytes, onSkip })
  const reader = new TarReader(writer, DEFAULT_LIMITS)
  try {
    for await (const chunk of stream) reader.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length))
    reader.end()
    if (writer.isEmpty) throw copyError(path, "there is nothing to copy")
    return { bytes: reader.offset }
  } catch (error) {
    throw fromCopyError(error)
  } finally {
    writer.close()
  }
}
