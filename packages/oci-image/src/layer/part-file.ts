import { ftruncate, write, writeSync } from "node:fs"
import { promisify } from "node:util"

/** The file behind a data part: a `FileHandle`, or a bare descriptor in {@link DescriptorFile}. */
export interface PartFile {
  write(bytes: Buffer, at: number, size: number, position: number): Promise<{ bytesWritten: number }>
  truncate(size: number): Promise<void>
}

/** Writes all of `bytes` at a position. */
export async function writeAll(
  file: Pick<PartFile, "write">,
  bytes: Buffer,
  position: number,
): Promise<void> {
  for (let at = 0; at < bytes.length; )
    at += (await file.write(bytes, at, bytes.length - at, position + at)).bytesWritten
}

const writeFd = promisify(write)
const truncateFd = promisify(ftruncate)

/** A file that was inherited open: the process may not open any itself. */
export class DescriptorFile implements PartFile {
  readonly #fd: number

  constructor(fd: number) {
    this.#fd = fd
  }

  write(bytes: Buffer, at: number, size: number, position: number): Promise<{ bytesWritten: number }> {
    return writeFd(this.#fd, bytes, at, size, position)
  }

  truncate(size: number): Promise<void> {
    return truncateFd(this.#fd, size)
  }

  /** Writes all of `bytes`, waiting for it. */
  writeAllSync(bytes: Buffer, position: number): void {
    for (let at = 0; at < bytes.length; )
      at += writeSync(this.#fd, bytes, at, bytes.length - at, position + at)
  }
}
