export { addAddress, addressFromBigInt, addressFromWords, isAligned } from "./address.js"
export { ArrayBufferMemory, arrayBufferMemory, type RegionRequest } from "./array-buffer.js"
export { MemoryError, type MemoryErrorCode } from "./errors.js"
export type { GuestAddress, GuestMemory, GuestRegion } from "./guest-memory.js"
export {
  DISCARD_ALIGNMENT,
  MAX_GUEST_ADDRESS,
  MAX_REGION_SIZE,
  REGION_ALIGNMENT,
  type RegionSource,
  RegionTable,
} from "./region-table.js"
