import { VsockListener } from "../listener.js"
import type { VsockStream } from "../streams.js"
import type { GuestHandlers, GuestSocket } from "./guest.js"
import type { Wire } from "./wire.js"

/** A connection the guest opened, seen from both ends. */
export async function accepted(
  wire: Wire,
  handlers: GuestHandlers = {},
): Promise<[VsockStream, GuestSocket]> {
  const listener = new VsockListener(wire.muxer, 1024, 128)
  const socket = wire.guest.connect(1024, handlers)
  await wire.settle()
  const { value } = await listener[Symbol.asyncIterator]().next()
  return [value, await socket]
}
