import { fdOrigin, MAX_MAPPING_SIZE, Mapping } from "@ts-vmm/native"
import { VHOST_USER_SET_LOG_BASE } from "./defs.js"
import { DirtyLog } from "./dirty-log.js"
import { VhostUserError } from "./errors.js"
import type { LogArea } from "./message.js"

const PAGE_SIZE = 4096

/** The dirty log's memory, as SET_LOG_BASE hands it over. */
export class DirtyLogMemory {
  readonly log: DirtyLog
  readonly #mapping: Mapping

  private constructor(mapping: Mapping, offset: number, size: number) {
    this.#mapping = mapping
    this.log = new DirtyLog(new Uint8Array(mapping.buffer, offset, size))
  }

  /**
   * Maps the log. `fd` stays the caller's.
   *
   * @throws VhostUserError `protocol` for a place that cannot be
   */
  static map(area: LogArea, fd: number): DirtyLogMemory {
    if (area.size === 0n || area.size + area.offset > BigInt(MAX_MAPPING_SIZE)) {
      throw logError(`dirty log of ${area.size} bytes at ${area.offset}`)
    }
    const inPage = Number(area.offset % BigInt(PAGE_SIZE))
    const size = Number(area.size)
    if (fdOrigin(fd) !== "memory") throw logError("dirty log is not memory")
    try {
      const mapping = Mapping.map({ fd, offset: Number(area.offset) - inPage, size: size + inPage })
      return new DirtyLogMemory(mapping, inPage, size)
    } catch (cause) {
      throw logError("dirty log cannot be mapped", cause)
    }
  }

  close(): void {
    this.#mapping.close()
  }
}

function logError(fact: string, cause?: unknown): VhostUserError {
  return new VhostUserError("protocol", fact, { request: VHOST_USER_SET_LOG_BASE, cause })
}
