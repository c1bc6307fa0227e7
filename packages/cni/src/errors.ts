/**
 * Why something of a network failed. Closed: new causes get a new code, a code never changes its meaning.
 *
 * - `invalid-argument`: a container id, interface name, argument or folder cannot be what it is given as.
 * - `config-missing`: no configuration in the folder has this name.
 * - `config-invalid`: the configuration is none, or names a plugin in a way that no plugin is named.
 * - `plugin-missing`: none of the folders has a program of the plugin's name.
 * - `plugin-failed`: the plugin said that it failed (`pluginCode`, `details`), or ended without a word.
 * - `plugin-timeout`: it did not end within its time, and was killed with all that it had started.
 * - `plugin-output`: it wrote more than is read, and was killed.
 * - `result-invalid`: what it wrote is no result of its version of the specification.
 * - `already-added`: this container has this interface already, or its DEL has not succeeded yet.
 * - `not-added`: there is no record of such an interface.
 * - `unsupported`: the configuration's version of the specification has no such operation.
 * - `delete-failed`: DEL failed, whole or in part: the record is kept, and DEL can be tried again.
 * - `record-invalid`: the record in the state folder cannot be read.
 * - `aborted`: the caller's signal aborted.
 */
export type CniErrorCode =
  | "invalid-argument"
  | "config-missing"
  | "config-invalid"
  | "plugin-missing"
  | "plugin-failed"
  | "plugin-timeout"
  | "plugin-output"
  | "result-invalid"
  | "already-added"
  | "not-added"
  | "unsupported"
  | "delete-failed"
  | "record-invalid"
  | "aborted"

/** What goes with a {@link CniError}. */
export interface CniErrorDetails extends ErrorOptions {
  /** The plugin's name. */
  readonly plugin?: string
  /** What the plugin gave as `code` (CNI 1.0.0, section 5, "Error"): 1 to 99 are the specification's. */
  readonly pluginCode?: number
  /** What it gave as `details`, or the end of its stderr. */
  readonly details?: string
  /** Why DEL after a failed ADD failed as well: the record is kept then. */
  readonly cleanUp?: CniError
}

/**
 * The one error of this package; recognise it by `code`.
 *
 * @example
 * ```ts
 * import { CniError } from "@ts-vmm/cni"
 *
 * const error = new CniError("plugin-timeout", "bridge: ADD took longer than 30000 ms", { plugin: "bridge" })
 * if (error.code === "plugin-timeout") console.error(error.plugin)
 * ```
 */
export class CniError extends Error {
  override readonly name = "CniError"
  readonly code: CniErrorCode
  readonly plugin: string | undefined
  readonly pluginCode: number | undefined
  readonly details: string | undefined
  readonly cleanUp: CniError | undefined

  constructor(code: CniErrorCode, message: string, details: CniErrorDetails = {}) {
    super(message, details)
    this.code = code
    this.plugin = details.plugin
    this.pluginCode = details.pluginCode
    this.details = details.details
    this.cleanUp = details.cleanUp
  }
}
