import { countInto } from "../shared-counters.js"
import { BLOCK_COUNTER_NAMES } from "./counters.js"
import { BlockDevice } from "./device.js"
import { RawFileBackend } from "./raw-file.js"
import type { BlockPartData, BlockPartMessage } from "./threads.js"

/** In a thread: its part of a disk, which is a device like any other. The fds in `data` are not its to close. */
export function makeBlockPart(data: BlockPartData, say: (message: BlockPartMessage) => void): BlockDevice {
  const device = new BlockDevice(new RawFileBackend(data.file), {
    ...data.options,
    onWriteError: errno => say({ writeError: errno }),
  })
  countInto(device.counters, BLOCK_COUNTER_NAMES, data.counters)
  return device
}
