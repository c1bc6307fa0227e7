import { closeFd, ioctl, Mapping, SysError } from "@ts-vmm/native"
import { ioctlError, KvmError } from "./errors.js"
import type { ArrayRequest, IoctlRequest, StructRequest } from "./ioctls/request.js"

const PAGE_SIZE = 4096
/** Fills what the kernel may leave alone; no element that it writes is made of this alone. */
const UNWRITTEN = 0xff

/**
 * An fd of the KVM API and the one object that owns it. Every error of the kernel becomes a {@link KvmError} that names
 * the request.
 */
export abstract class KvmFd implements Disposable {
  #fd: number
  /** For requests whose structure holds an address: the one piece of memory here that has one. */
  #pointee: Mapping | undefined

  /** @param fd - owned from now on */
  constructor(fd: number) {
    this.#fd = fd
  }

  /** The fd, for {@link VcpuThread} and for passing to another process; -1 once closed. */
  get fd(): number {
    return this.#fd
  }

  /** True after {@link close}. */
  get closed(): boolean {
    return this.#fd === -1
  }

  /** Closes the fd. The kernel's object lives until the last fd or mapping of it is gone. Idempotent. */
  close(): void {
    const fd = this.#fd
    if (fd === -1) return
    this.#fd = -1
    this.#pointee?.close()
    this.#pointee = undefined
    closeFd(fd)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** @internal A request with a number, bytes or nothing; gives what the kernel returned. */
  protected call(request: IoctlRequest, arg: ArrayBufferView | bigint | number = 0): number {
    if (this.#fd === -1) throw new KvmError("closed", `${request.name} on a closed fd`)
    try {
      return ioctl(this.#fd, request.number, arg)
    } catch (error) {
      throw ioctlError(request.name, error)
    }
  }

  /** @internal A structure that the kernel fills. */
  protected readStruct<T>(request: StructRequest<T>): T {
    const bytes = new Uint8Array(request.struct.span)
    this.call(request, bytes)
    return request.struct.decode(bytes)
  }

  /** @internal A structure for the kernel. */
  protected writeStruct<T>(request: StructRequest<T>, value: T): number {
    return this.call(request, request.struct.toBytes(value))
  }

  /** @internal A structure that goes in and comes back changed. */
  protected exchangeStruct<T>(request: StructRequest<T>, value: T): T {
    const bytes = request.struct.toBytes(value)
    this.call(request, bytes)
    return request.struct.decode(bytes)
  }

  /**
   * @internal An array of a length that only the kernel knows: asks again with more room as long as it says E2BIG.
   *
   * @param guess - elements to make room for at first
   */
  protected readArray<H, E>(request: ArrayRequest<H, E>, guess: number): E[] {
    return request.array.decode(this.#growing(request, guess, 0))
  }

  /** @internal As {@link readArray}, from a request that does not say how many elements it wrote. */
  protected readUncountedArray<H, E>(request: ArrayRequest<H, E>, guess: number): E[] {
    const { array } = request
    const bytes = this.#growing(request, guess, UNWRITTEN)
    const written = bytes.findLastIndex(byte => byte !== UNWRITTEN) + 1 - array.header.span
    return array.decode(bytes).slice(0, Math.ceil(written / array.element.span))
  }

  #growing<H, E>(request: ArrayRequest<H, E>, guess: number, filler: number): Uint8Array {
    const { array } = request
    for (let capacity = guess; ; ) {
      const bytes = array.room(capacity).fill(filler, array.header.span)
      try {
        this.call(request, bytes)
        return bytes
      } catch (error) {
        if (!isErrno(error, "E2BIG") || capacity >= array.max) throw error
        // Some requests say how many there are, others leave the count alone.
        capacity = Math.min(array.max, Math.max(array.count(bytes), capacity * 2))
      }
    }
  }

  /** @internal An array for the kernel; fields of its header that `header` lacks are zero. */
  protected writeArray<H, E>(
    request: ArrayRequest<H, E>,
    elements: readonly E[],
    header: object = {},
  ): number {
    return this.call(request, request.array.toBytes(elements, header))
  }

  /**
   * @internal `size` zero bytes with an address that a structure can hold. Good until the next call of this method, so
   * only for one request.
   */
  protected pointee(size: number): { readonly bytes: Uint8Array; readonly address: bigint } {
    if (this.#fd === -1) throw new KvmError("closed", "use of a closed fd")
    if (this.#pointee === undefined || this.#pointee.size < size) {
      this.#pointee?.close()
      const pages = Math.max(1, Math.ceil(size / PAGE_SIZE))
      this.#pointee = Mapping.create({ name: "kvm-argument", size: pages * PAGE_SIZE })
    }
    const bytes = new Uint8Array(this.#pointee.buffer, 0, size).fill(0)
    return { bytes, address: this.#pointee.hostAddress }
  }
}

/** True for a {@link KvmError} with this errno. @internal */
export function isErrno(error: unknown, ...names: readonly string[]): error is KvmError {
  return error instanceof KvmError && error.errnoName !== undefined && names.includes(error.errnoName)
}

/** True for a {@link SysError} with this code. @internal */
export function isSysErrno(error: unknown, ...names: readonly string[]): error is SysError {
  return error instanceof SysError && names.includes(error.code)
}
