import { SandboxError, type SandboxErrorCode } from "../../errors.js"

/** Errors of the packages below carry a code that says whose fault it is. */
export function asSandboxError(error: Error & { code?: string }): Error {
  const codes: Record<string, SandboxErrorCode> = {
    VmmError: "invalid-argument",
    LoaderError: "invalid-argument",
    KvmError: "hypervisor-unavailable",
    SysError: error.code === "ENOMEM" ? "no-space" : "hypervisor-unavailable",
  }
  const code = codes[error.name]
  if (code === undefined) return error
  const what = error.name === "LoaderError" ? "the guest cannot be loaded: " : ""
  return new SandboxError(code, `${what}${error.message}`, { cause: error })
}
