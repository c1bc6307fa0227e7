export { benchMmio, type MmioBenchResult } from "./bench-mmio.js"
export { benchQueue, type QueueBenchResult } from "./bench-queue.js"
export { type ConformanceCase, type ConformanceSubject, deviceConformance } from "./conformance.js"
export { DirectPort, direct } from "./direct.js"
export {
  type DriverBuffer,
  type DriverQueue,
  type PostOptions,
  type RawDescriptor,
  type UsedBuffer,
  writeDescriptor,
} from "./driver-queue.js"
export type { DriverPort, FrontDoor, FrontDoorOptions, MemoryRequest } from "./front-door.js"
export { BROKEN_CHAINS, type HostileChain, ODD_CHAINS } from "./hostile.js"
export { ManualClock } from "./manual-clock.js"
export { MmioPort } from "./mmio-port.js"
export { DEFAULT_REGIONS, MockDriver, type MockDriverOptions } from "./mock-driver.js"
export { overMmio } from "./over-mmio.js"
export { overVhostUser } from "./over-vhost-user.js"
export { PackedDriver } from "./packed-driver.js"
export { type RandomSource, randomSource, writeRandomRing } from "./random-ring.js"
export { SplitDriver } from "./split-driver.js"
