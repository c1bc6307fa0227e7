/**
 * Why a sandbox operation failed. Closed: new causes get a new code, a code never changes its meaning.
 *
 * - `invalid-argument`: the caller's options do not hold; the message names the option.
 * - `image-not-found`, `image-invalid`: the image cannot be found, or is refused.
 * - `image-refused`: the policy does not let the image run; the message names the rule.
 * - `image-unavailable`: the registry that may have the image cannot be reached, or does not give it to us.
 * - `hypervisor-unavailable`: this host cannot run the hypervisor asked for; the message says why.
 * - `no-space`: the host lacks disk or shared memory for the sandbox.
 * - `disk-failed`: the host could not write the sandbox's disk, for another reason than want of space.
 * - `name-in-use`, `not-found`: names of sandboxes.
 * - `network-failed`: a network cannot be had, or not be given back: its plugins or the tools for it fail, or this user may
 *   not use them. The message says which, and whether something is kept to be given back later.
 * - `boot-failed`: the guest kernel or the agent did not come up.
 * - `guest-died`: the guest kernel ended (panic, crash, killed) while the sandbox was in use.
 * - `agent-failed`: the guest agent answered with an error, nonsense, or not at all.
 * - `command-not-found`, `command-not-executable`: the program cannot be started in the container.
 * - `command-failed`: a program ended with a non-zero code and `check` was set.
 * - `copy-failed`: a file or folder cannot be copied into or out of a container; the message names it.
 * - `memory-unavailable`: the guest's kernel has no driver for the memory balloon.
 * - `in-use`: what is to be detached is used by a program.
 * - `output-too-large`: `exec` was given more output than it keeps.
 * - `timeout`, `aborted`: `timeoutMs` passed, or `signal` aborted.
 * - `stopped`: the sandbox or container is not running any more.
 */
export type SandboxErrorCode =
  | "invalid-argument"
  | "image-not-found"
  | "image-invalid"
  | "image-unavailable"
  | "image-refused"
  | "hypervisor-unavailable"
  | "no-space"
  | "disk-failed"
  | "name-in-use"
  | "not-found"
  | "network-failed"
  | "boot-failed"
  | "guest-died"
  | "agent-failed"
  | "command-not-found"
  | "command-not-executable"
  | "command-failed"
  | "copy-failed"
  | "memory-unavailable"
  | "in-use"
  | "output-too-large"
  | "timeout"
  | "aborted"
  | "stopped"

/**
 * The one error of this package. Recognise it by `code`, which survives two copies of the package in one
 * program; `cause` holds the lower error.
 *
 * @example
 * ```ts
 * import { SandboxError } from "@ts-vmm/runtime"
 *
 * const error = new SandboxError("timeout", "the guest did not start within 5000 ms")
 * if (error.code === "timeout") console.error(error.message)
 * ```
 */
export class SandboxError extends Error {
  override readonly name: string = "SandboxError"
  readonly code: SandboxErrorCode

  constructor(code: SandboxErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** A program ended with a non-zero code although `check: true` asked for success. */
export class ExecError extends SandboxError {
  override readonly name = "ExecError"
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string

  constructor(command: readonly string[], result: { exitCode: number; stdout: string; stderr: string }) {
    super("command-failed", `${command[0] ?? "command"} ended with exit code ${result.exitCode}`)
    this.exitCode = result.exitCode
    this.stdout = result.stdout
    this.stderr = result.stderr
  }
}

/** The error for a caller's `signal` that aborted. */
export function abortedError(signal: AbortSignal): SandboxError {
  return new SandboxError("aborted", "the operation was aborted", { cause: signal.reason })
}
