import { KVMIO } from "../bindings/common.js"
import type { FlexibleArray } from "../structs/flexible-array.js"
import type { KvmStruct } from "../structs/struct.js"

/** An ioctl of the KVM API: its name for messages, its number for the kernel. */
export interface IoctlRequest {
  readonly name: string
  readonly number: number
}

/** A request that moves a structure. */
export interface StructRequest<T> extends IoctlRequest {
  readonly struct: KvmStruct<T>
}

/** A request that moves a structure which ends in an array. */
export interface ArrayRequest<H, E> extends IoctlRequest {
  readonly array: FlexibleArray<H, E>
}

/** Of asm-generic/ioctl.h: what a direction bit says is seen from the program. */
const IOC_WRITE = 1
const IOC_READ = 2

function encode(direction: number, number: number, size: number): number {
  // The top bit would make it negative.
  return ((direction << 30) | (size << 16) | (KVMIO << 8) | number) >>> 0
}

/** `_IO`: no argument, or a number. */
export function io(name: string, number: number): IoctlRequest {
  return { name, number: encode(0, number, 0) }
}

/** `_IOR`: the kernel writes a structure. */
export function ior<T>(name: string, number: number, struct: KvmStruct<T>): StructRequest<T> {
  return { name, number: encode(IOC_READ, number, struct.span), struct }
}

/** `_IOW`: the kernel reads a structure. */
export function iow<T>(name: string, number: number, struct: KvmStruct<T>): StructRequest<T> {
  return { name, number: encode(IOC_WRITE, number, struct.span), struct }
}

/** `_IOWR`: both. */
export function iowr<T>(name: string, number: number, struct: KvmStruct<T>): StructRequest<T> {
  return { name, number: encode(IOC_READ | IOC_WRITE, number, struct.span), struct }
}

/** `_IOW` of a structure that ends in an array; the number holds the size of the header alone. */
export function iowArray<H, E>(name: string, number: number, array: FlexibleArray<H, E>): ArrayRequest<H, E> {
  return { name, number: encode(IOC_WRITE, number, array.header.span), array }
}

/** `_IOWR` of the same. */
export function iowrArray<H, E>(
  name: string,
  number: number,
  array: FlexibleArray<H, E>,
): ArrayRequest<H, E> {
  return { name, number: encode(IOC_READ | IOC_WRITE, number, array.header.span), array }
}
