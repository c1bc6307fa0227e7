import type { SandboxRecord, SandboxStatus } from "./record.js"
import type { SandboxDirectory } from "./sandbox-directory.js"

/** What of a sandbox's record is known when it is made, and stays. */
export type Fixed = Pick<SandboxRecord, "image" | "imageDigest" | "command" | "hypervisor">

/** What a sandbox lets other processes know of itself, kept in its folder as long as that is there. */
export class OwnRecord {
  status: SandboxStatus = "creating"
  exitCode: number | undefined
  readonly #directory: SandboxDirectory
  readonly #fixed: Fixed
  readonly #createdAt = Date.now()

  constructor(directory: SandboxDirectory, fixed: Fixed) {
    this.#directory = directory
    this.#fixed = fixed
  }

  /** Shows what has changed. */
  publish(): void {
    this.#directory.record({
      id: this.#directory.id,
      name: this.#directory.name,
      ...this.#fixed,
      status: this.status,
      createdAt: this.#createdAt,
      ownerPid: process.pid,
      ...(this.exitCode === undefined ? {} : { exitCode: this.exitCode }),
    })
  }

  /** Removes the folder, or all of it but the record as it is now. */
  end(isKept: boolean): void {
    if (!isKept) {
      this.#directory.remove()
      return
    }
    this.publish()
    this.#directory.keepRecordOnly()
  }
}
