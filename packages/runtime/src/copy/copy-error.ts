import { getSystemErrorMap } from "node:util"
import { ImageError } from "@ts-vmm/oci-image"
import { SandboxError } from "../errors.js"

/** @returns the error for what cannot be copied, and why */
export function copyError(what: string, why: string, options?: ErrorOptions): SandboxError {
  return new SandboxError("copy-failed", `${what}: ${why}`, options)
}

/** The error for a system call that failed. @param result - a negative errno */
export function callError(what: string, result: number): SandboxError {
  const [name, text] = getSystemErrorMap().get(result) ?? [`errno ${-result}`, "unknown error"]
  const isFull = name === "ENOSPC" || name === "EDQUOT"
  return new SandboxError(isFull ? "no-space" : "copy-failed", `${what}: ${text} (${name})`)
}

/** Turns what reading a file or a tar stream throws into an error of ours; others pass. */
export function fromCopyError(error: unknown): unknown {
  if (error instanceof ImageError) return new SandboxError("copy-failed", error.message, { cause: error })
  const { errno, path } = error as NodeJS.ErrnoException
  return errno === undefined || path === undefined ? error : callError(path, errno)
}
