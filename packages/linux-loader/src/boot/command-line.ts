import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { Cmdline } from "../cmdline.js"
import { LoaderError } from "../errors.js"
import { CMDLINE_START, SETUP_DATA_START } from "../layout.js"
import { requireRoom } from "../placement.js"

/**
 * The command line's bytes, once it is known that kernel and area take them.
 * @throws LoaderError `cmdline-too-long`, `table-no-room`
 */
export function checkCommandLine(
  memory: GuestMemory,
  cmdline: Cmdline,
  longest = Number.POSITIVE_INFINITY,
): Uint8Array {
  if (cmdline.length > longest)
    throw new LoaderError("cmdline-too-long", { need: cmdline.length, have: longest })
  const bytes = cmdline.toBytes()
  requireRoom(memory, CMDLINE_START, SETUP_DATA_START, bytes.length)
  return bytes
}
