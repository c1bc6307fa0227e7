/**
 * A guest physical address in bytes. Always a `number`: a physical address fits 52 bits, and whoever reads
 * a u64 from the guest refuses a high word of 2^21 or more before it becomes a number.
 */
export type GuestAddress = number

/**
 * One contiguous piece of guest RAM. Regions of one memory never overlap; each is at most 4 GiB, the
 * largest `ArrayBuffer` of Node 20.
 */
export interface GuestRegion {
  /** First guest physical address. */
  readonly start: GuestAddress
  /** Length in bytes. */
  readonly size: number
  /** The whole region. Its buffer is detached (length 0) once the provider is closed. */
  readonly bytes: Uint8Array
}

/**
 * Guest memory as devices, loaders and queues consume it. How it comes to be (an array in a test, a memfd,
 * a vhost-user memory table) is a provider's business and never shows here.
 *
 * Every method is all-or-error: what is not wholly inside regions throws `MemoryError` `out-of-range` and
 * nothing was read or written beyond what lies inside.
 */
export interface GuestMemory {
  /** Regions by rising address. */
  readonly regions: readonly GuestRegion[]
  /** The region that holds all of `[at, at + size)`, or undefined (a hole, the end, or two regions). */
  find(at: GuestAddress, size: number): GuestRegion | undefined
  /** Copies `into.length` bytes out of the guest. May cross adjacent regions. */
  read(at: GuestAddress, into: Uint8Array): void
  /** Copies `from` into the guest. May cross adjacent regions. */
  write(at: GuestAddress, from: Uint8Array): void
  /** Zero-copy views, one per region crossed, in address order; their lengths add up to `size`. */
  slices(at: GuestAddress, size: number): Uint8Array[]
  /**
   * Gives the pages of `[at, at + size)` back to the host: they read as zeroes from here on and take memory again when
   * they are touched. Memory that cannot be given back (the JavaScript heap) only becomes zero. May cross adjacent
   * regions.
   *
   * Start and length are multiples of 4096, or `MemoryError` `misaligned`. `discard-failed`: the provider refused, with
   * its own error as `cause`; a part may have been given back.
   */
  discard(at: GuestAddress, size: number): void
  /** Acquire load of an aligned little-endian u16. */
  loadU16(at: GuestAddress): number
  /** Release store of an aligned little-endian u16. */
  storeU16(at: GuestAddress, value: number): void
}
