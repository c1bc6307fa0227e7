import type { ContainerCommitOptions } from "../container/commit.js"
import type { CopyInOptions, CopyOutOptions } from "../container/copy.js"
import type { PreparedCopy } from "../copy/source.js"
import type { SandboxErrorCode } from "../errors.js"
import type { MemoryChange } from "../memory/control.js"

/** What one process may ask of the owner of a sandbox. */
export type ControlRequest =
  | { readonly op: "signal"; readonly signal: number }
  | { readonly op: "kill" }
  | { readonly op: "diff" }
  | { readonly op: "commit"; readonly options: CommitRequest }
  | { readonly op: "memory"; readonly options: MemoryChange }
  | { readonly op: "cpus"; readonly options: CpuChange }
  | { readonly op: "copy-in"; readonly options: CopyInRequest }
  | { readonly op: "copy-out"; readonly options: CopyOutRequest }

/** How many CPUs the guest shall work with; undefined: as before. */
export interface CpuChange {
  readonly online?: number
}

/** What can be said of a commit from outside. */
export type CommitRequest = Omit<ContainerCommitOptions, "signal" | "timeoutMs" | "created">

/** What is copied in, which follows as frames, and where it goes. */
export interface CopyInRequest extends Pick<CopyInOptions, "archive">, Omit<PreparedCopy, "tar"> {
  readonly path: string
}

/** What is copied out, as frames before the reply. */
export interface CopyOutRequest extends Pick<CopyOutOptions, "followLink"> {
  readonly path: string
}

/** One line of JSON. */
export type ControlReply =
  | { readonly ok: true; readonly value?: unknown }
  | { readonly ok: false; readonly code: SandboxErrorCode; readonly message: string }

/** In the sandbox's folder. */
export const SOCKET_FILE = "ctl.sock"
/** A reply may hold a list. */
export const MAX_REPLY = 64 * 1024 * 1024
