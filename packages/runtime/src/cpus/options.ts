import { SandboxError } from "../errors.js"

/** How many virtual CPUs a sandbox has. */
export interface CpuConfig {
  /** At boot. */
  readonly cpus: number
  /** Most that its guest can work with while it runs. */
  readonly cpusMax: number
}

/** What KVM's local APICs, and the kernels that we know, are used with. */
const MAX_CPUS = 32

/** @throws SandboxError `invalid-argument`, naming the option */
export function checkCpus({ cpus = 1, cpusMax = cpus }: Partial<CpuConfig>): CpuConfig {
  checkOnline("cpus", cpus, MAX_CPUS)
  if (Number.isInteger(cpusMax) && cpusMax >= cpus && cpusMax <= MAX_CPUS) return { cpus, cpusMax }
  throw new SandboxError(
    "invalid-argument",
    `cpusMax must be a whole number from ${cpus}, which cpus is, to ${MAX_CPUS}, not ${cpusMax}`,
  )
}

/**
 * @param what - the option, for the message
 * @throws SandboxError `invalid-argument`
 */
export function checkOnline(what: string, online: number, most: number): number {
  if (Number.isInteger(online) && online >= 1 && online <= most) return online
  throw new SandboxError(
    "invalid-argument",
    `${what} must be a whole number from 1 to ${most}, not ${online}`,
  )
}

/** The guest finds all of them, and starts so many. */
export function cpuArguments({ cpus, cpusMax }: CpuConfig): string[] {
  return cpusMax > cpus ? [`maxcpus=${cpus}`] : []
}
