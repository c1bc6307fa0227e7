import { setTimeout } from "node:timers/promises"
import type { VirtioDevice } from "../device.js"

const POLL_MS = 1

/**
 * When no I/O of `device` works on guest memory any more. Nothing here has a time limit: as long as a disk may
 * write into a buffer, the driver must not have it back.
 *
 * @param held chains the device had taken and not returned
 * @param inFlight I/O under way on guest memory, for devices that cannot say themselves
 * @returns undefined when there is none now
 */
export function ioEnded(
  device: VirtioDevice,
  held: number,
  inFlight: (() => number) | undefined,
): Promise<void> | undefined {
  if (device.idle) return device.idle()
  // Without a chain a device has no way to guest memory, whatever its neighbours are doing there.
  if (held === 0 || !inFlight || inFlight() === 0) return undefined
  return untilZero(inFlight)
}

async function untilZero(count: () => number): Promise<void> {
  while (count() > 0) await setTimeout(POLL_MS)
}
