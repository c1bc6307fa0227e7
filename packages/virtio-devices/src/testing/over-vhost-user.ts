import type { FrontDoor } from "./front-door.js"

/**
 * Driver and device joined by the vhost-user protocol over a socket pair and shared memory. Loads the native
 * addon when it is first opened, so that tests over `direct` need none.
 */
export const overVhostUser: FrontDoor = {
  name: "vhost-user",
  open: async (device, options) => {
    const { overVhostUser: door } = await import("../vhost-user/over-vhost-user.js")
    return door.open(device, options)
  },
}
