import { SandboxError } from "../errors.js"

/**
 * Where what the containers of a sandbox write lies, and how much of it there may be. They share it: a limit is that
 * of the sandbox.
 */
export interface SandboxStorage {
  /**
   * `memory`: RAM of the guest. `disk`: a file of the host, without a name, on the file system of the image store; it
   * grows as it is written to, shrinks as files are removed, and is gone with the sandbox, however that ends.
   */
  readonly kind: "memory" | "disk"
  /** Default: for memory no limit but the guest's RAM, for a disk 10,240. A file system takes a few of a hundred itself. */
  readonly sizeMiB?: number
}

/** A {@link SandboxStorage} that was checked. */
export type StorageConfig =
  | { readonly kind: "memory"; readonly sizeMiB: number | undefined }
  | { readonly kind: "disk"; readonly sizeMiB: number }

const DEFAULT_DISK_MIB = 10 * 1024
/** A file system needs room for itself. */
const MIN_DISK_MIB = 16
/** 1 TiB: more is a slip of the keyboard. */
const MAX_MIB = 1024 * 1024

/** @throws SandboxError `invalid-argument` */
export function checkStorage({ kind, sizeMiB }: SandboxStorage = { kind: "memory" }): StorageConfig {
  if (kind !== "memory" && kind !== "disk")
    throw new SandboxError("invalid-argument", `unknown storage "${kind}": use memory or disk`)
  const min = kind === "disk" ? MIN_DISK_MIB : 1
  if (sizeMiB !== undefined && !(Number.isInteger(sizeMiB) && sizeMiB >= min && sizeMiB <= MAX_MIB)) {
    throw new SandboxError(
      "invalid-argument",
      `the size of the storage must be a whole number of MiB from ${min} to ${MAX_MIB}, not ${sizeMiB}`,
    )
  }
  return kind === "disk" ? { kind, sizeMiB: sizeMiB ?? DEFAULT_DISK_MIB } : { kind, sizeMiB }
}
