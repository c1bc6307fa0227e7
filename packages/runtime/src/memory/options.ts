import { SandboxError } from "../errors.js"

/** How much memory a sandbox has, in MiB. */
export interface MemoryConfig {
  /** At boot. */
  readonly memoryMiB: number
  /** What it shall get along with of that. */
  readonly memoryTargetMiB: number
  /** Most that it can be given while it runs. */
  readonly memoryMaxMiB: number
}

/** Linux adds memory in sections of this size. */
const SECTION_MIB = 128
/** What memory is given and taken in. */
const STEP_MIB = 2
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

/**
 * The most that there can be, whole sections above what there is at boot.
 * @throws SandboxError `invalid-argument`
 */
export function checkMax(maxMiB: number, bootMiB: number, limitMiB: number): number {
  const more = maxMiB - bootMiB
  if (more >= 0 && more % SECTION_MIB === 0 && maxMiB <= limitMiB) return maxMiB
  throw new SandboxError(
    "invalid-argument",
    `memoryMaxMiB must be memoryMiB and a multiple of ${SECTION_MIB} MiB, up to ${limitMiB}, not ${maxMiB}`,
  )
}

/** @throws SandboxError `invalid-argument` */
export function checkSize(sizeMiB: number, bootMiB: number, maxMiB: number): number {
  if (sizeMiB >= bootMiB && sizeMiB <= maxMiB && (sizeMiB - bootMiB) % STEP_MIB === 0) return sizeMiB
  throw new SandboxError(
    "invalid-argument",
    `the RAM can be ${bootMiB} to ${maxMiB} MiB, in steps of ${STEP_MIB}, not ${sizeMiB}: memoryMaxMiB is the most`,
  )
}

/** New memory is used at once, and for what can be moved away from it only: so it can be taken again. */
export function memoryArguments({ memoryMiB, memoryMaxMiB }: MemoryConfig): string[] {
  return memoryMaxMiB > memoryMiB ? ["memhp_default_state=online_movable"] : []
}
