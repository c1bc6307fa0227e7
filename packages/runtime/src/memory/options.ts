import { SandboxError } from "../errors.js"

/** What a guest cannot do without: its kernel and the agent. */
const MIN_TARGET_MIB = 32

/**
 * @param what - the option, for the message
 * @throws SandboxError `invalid-argument`
 */
export function checkTarget(what: string, targetMiB: number, sizeMiB: number): number {
  const least = Math.min(MIN_TARGET_MIB, sizeMiB)
  if (Number.isInteger(targetMiB) && targetMiB >= least && targetMiB <= sizeMiB) return targetMiB
  throw new SandboxError(
    "invalid-argument",
    `${what} must be a whole number of MiB from ${least} to the guest's RAM of ${sizeMiB}, not ${targetMiB}`,
  )
}
