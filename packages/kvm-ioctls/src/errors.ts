import { RequestError, type RequestErrorDetails, SysError } from "@ts-vmm/native"
import { hintFor } from "./hints.js"

/**
 * What can go wrong:
 * - `unavailable` the KVM node cannot be opened, or is not KVM: no such file, no permission, another API version
 * - `unsupported` the kernel does not know the request, or says that it lacks the capability
 * - `ioctl` any other request that the kernel refused: see {@link KvmError.errno}
 * - `invalid-argument` a value that was refused before the kernel saw it
 * - `closed` use of an fd after `close`
 * - `unexpected-exit` a guest stopped for a reason that the program does not expect; for callers of
 *   {@link VcpuFd.run}, nothing here throws it
 */
export type KvmErrorCode =
  | "unavailable"
  | "unsupported"
  | "ioctl"
  | "invalid-argument"
  | "closed"
  | "unexpected-exit"

/** Facts that come with a {@link KvmError}. */
export type KvmErrorDetails = RequestErrorDetails

/**
 * Error of this package.
 *
 * @example
 * ```ts
 * import { Kvm, KvmError } from "@ts-vmm/kvm-ioctls"
 *
 * try {
 *   using kvm = new Kvm()
 * } catch (error) {
 *   if (error instanceof KvmError && error.code === "unavailable") console.error(error.message)
 *   else throw error
 * }
 * ```
 */
export class KvmError extends RequestError<KvmErrorCode> {
  override readonly name = "KvmError"
}

/** A {@link KvmError} `invalid-argument`. @internal */
export function invalidArgument(fact: string, cause?: unknown): KvmError {
  return new KvmError("invalid-argument", fact, { cause })
}

/** The kernel has no such request (ENOTTY), or not on this hardware (ENXIO, EOPNOTSUPP). */
const UNSUPPORTED: ReadonlySet<string> = new Set(["ENOTTY", "ENOSYS", "EOPNOTSUPP", "ENOTSUP"])

/** What a failed ioctl becomes. @internal */
export function ioctlError(syscall: string, error: unknown): unknown {
  if (error instanceof RangeError || error instanceof TypeError)
    return invalidArgument(`${syscall}: ${error.message}`, error)
  if (!(error instanceof SysError)) return error
  const { errno, code: name } = error
  const hint = hintFor(syscall, name)
  const code = UNSUPPORTED.has(name) ? "unsupported" : "ioctl"
  return new KvmError(code, `${syscall} failed with ${name}`, {
    errno,
    syscall,
    cause: error,
    ...withHint(hint),
  })
}

/** What a KVM node that cannot be opened becomes. @internal */
export function openError(path: string, error: NodeJS.ErrnoException): KvmError {
  const errno = Math.abs(error.errno ?? 0)
  const hint = hintFor("open", error.code ?? "")
  const fact = `cannot open ${path}: ${error.code}`
  return new KvmError("unavailable", fact, { errno, syscall: "open", cause: error, ...withHint(hint) })
}

/** A hint that is not there must be absent, not undefined. */
function withHint(hint: string | undefined): { hint?: string } {
  return hint === undefined ? {} : { hint }
}
