import { constants } from "node:os"
import { getSystemErrorMap } from "node:util"

/**
 * A system call that failed. Wrong arguments are a `TypeError` or `RangeError` instead and never reach the
 * kernel.
 *
 * @example
 * ```ts
 * try {
 *   unixConnect("/run/nobody-listens.sock")
 * } catch (error) {
 *   if (error instanceof SysError && error.code === "ECONNREFUSED") retryLater()
 * }
 * ```
 */
export class SysError extends Error {
  /** The kernel's error number, positive, as in `errno(3)`. */
  readonly errno: number
  /** Its name, such as `"ENOENT"`. */
  readonly code: string
  /** The system call, such as `"mmap"`. */
  readonly syscall: string

  /** @param detail - one more fact that helps whoever reads the message, in lower case */
  constructor(errno: number, syscall: string, detail?: string) {
    const [code, text] = describeErrno(errno)
    super(`${syscall} failed: ${text} (${code})${detail === undefined ? "" : `, ${detail}`}`)
    this.name = "SysError"
    this.errno = errno
    this.code = code
    this.syscall = syscall
  }
}

/** Facts that come with a {@link RequestError}. */
export interface RequestErrorDetails extends ErrorOptions {
  /** The kernel's error number, positive. */
  readonly errno?: number
  /** The request, such as `"KVM_CREATE_VM"`, or the system call. */
  readonly syscall?: string
  /** What a person can do about it. */
  readonly hint?: string
}

/**
 * What packages throw whose methods are requests (ioctls) to a device of the kernel: each has a class of its own with a
 * closed set of codes, by which it is recognised.
 *
 * @example
 * ```ts
 * class LoopError extends RequestError<"unavailable" | "ioctl"> {
 *   override readonly name = "LoopError"
 * }
 * throw new LoopError("ioctl", "LOOP_SET_FD failed", { errno: 16, syscall: "LOOP_SET_FD", hint: "it is in use" })
 * ```
 */
export abstract class RequestError<Code extends string> extends Error {
  /** What happened; closed set. */
  readonly code: Code
  /** The kernel's error number, positive; undefined when the kernel was not asked. */
  readonly errno: number | undefined
  /** Its name, such as `"EEXIST"`. */
  readonly errnoName: string | undefined
  /** The request, such as `"KVM_CREATE_VM"`, or the system call, such as `"open"`. */
  readonly syscall: string | undefined
  /** What a person can do about it, where that is known. Part of the message too. */
  readonly hint: string | undefined

  /** @param fact - lower case, without a full stop */
  constructor(code: Code, fact: string, details: RequestErrorDetails = {}) {
    super(details.hint === undefined ? fact : `${fact}; ${details.hint}`, details)
    this.code = code
    this.errno = details.errno
    this.errnoName = details.errno === undefined ? undefined : errnoName(details.errno)
    this.syscall = details.syscall
    this.hint = details.hint
  }
}

/**
 * The name of an errno: `errnoName(2)` is `"ENOENT"`. Accepts the negative results of {@link IoBatch} too.
 * An unknown number gives `"E<number>"`.
 */
export function errnoName(errno: number): string {
  return describeErrno(Math.abs(errno))[0]
}

function describeErrno(errno: number): [code: string, text: string] {
  const known = getSystemErrorMap().get(-errno)
  if (known !== undefined) return known
  // libuv does not name every errno (ESTALE, EDQUOT, …); node:os knows the rest of POSIX.
  const named = Object.entries(constants.errno).find(([, value]) => value === errno)
  const code = named?.[0] ?? `E${errno}`
  return [code, `error number ${errno}`]
}
