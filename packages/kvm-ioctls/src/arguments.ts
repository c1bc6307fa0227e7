import { invalidArgument } from "./errors.js"

/** A guest address or length as the kernel's u64. @internal */
export function toU64(name: string, value: number): bigint {
  if (!(Number.isSafeInteger(value) && value >= 0))
    throw invalidArgument(`${name} must be an integer from 0 to 2^53 - 1, not ${value}`)
  return BigInt(value)
}

/** A number that fits 32 bits. @internal */
export function toU32(name: string, value: number): number {
  if (!(Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff))
    throw invalidArgument(`${name} must be an integer from 0 to 2^32 - 1, not ${value}`)
  return value
}

/** An open fd. @internal */
export function toFd(name: string, value: number): number {
  if (!(Number.isInteger(value) && value >= 0 && value <= 0x7fff_ffff))
    throw invalidArgument(`${name} must be a file descriptor, not ${value}`)
  return value
}

/** Fields of KVM_ENABLE_CAP. @internal */
export function enableCapFields(cap: number, args: readonly (bigint | number)[], flags: number) {
  if (args.length > 4) throw invalidArgument(`KVM_ENABLE_CAP takes 4 arguments, not ${args.length}`)
  const padded = [...args, 0, 0, 0, 0].slice(0, 4)
  return { cap: toU32("cap", cap), flags: toU32("flags", flags), args: padded.map(BigInt) }
}
