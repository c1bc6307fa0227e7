import { closeFd, ioctl, socketPair } from "@ts-vmm/native"
import * as defs from "./defs.js"

/** A `struct ifreq` for `name` with a 16-bit field in its union. */
export function interfaceRequest(name: string, value = 0): DataView {
  const request = new DataView(new ArrayBuffer(defs.IFREQ_SIZE))
  new TextEncoder().encodeInto(name, new Uint8Array(request.buffer, 0, defs.IFNAMSIZ - 1))
  request.setUint16(defs.IFNAMSIZ, value, true)
  return request
}

/** The name in a `struct ifreq`. */
export function nameOf(request: DataView): string {
  const bytes = new Uint8Array(request.buffer, request.byteOffset, defs.IFNAMSIZ)
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)))
}

/**
 * Asks about an interface of this process's network namespace. Any socket does for that; one without a network needs no
 * permission.
 *
 * @returns the first four bytes of the answer
 * @throws SysError `ENODEV`
 */
function ask(name: string, question: number): number {
  const request = interfaceRequest(name)
  const ends = socketPair()
  try {
    ioctl(ends[0], question, request)
    return request.getInt32(defs.IFNAMSIZ, true)
  } finally {
    for (const end of ends) closeFd(end)
  }
}

/** Whether there is an interface of this name. */
export function isInterface(name: string): boolean {
  try {
    return ask(name, defs.SIOCGIFINDEX) > 0
  } catch {
    return false
  }
}

/** @throws SysError `ENODEV` */
export function mtuOf(name: string): number {
  return ask(name, defs.SIOCGIFMTU)
}
