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
