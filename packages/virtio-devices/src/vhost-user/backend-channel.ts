import { writeSync } from "node:fs"
import { closeFd, fdOrigin, sendMessage, setNonBlocking } from "@ts-vmm/native"
import { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, VHOST_USER_SET_BACKEND_REQ_FD } from "./defs.js"
import { VhostUserError } from "./errors.js"
import { encodeMessage } from "./message.js"

/**
 * The way back: requests of the back end to the front end. Answers are never asked for, because a front end
 * may give a pipe, which has no way back (and a hostile one would not answer).
 *
 * @see vhost-user.rst, "Back-end communication"
 */
export class BackendChannel {
  #fd = -1
  #socket = false

  /**
   * @param fd owned from here on
   * @throws VhostUserError `protocol` when it is neither a socket nor a pipe; `fd` is closed then
   */
  open(fd: number): undefined {
    const origin = fdOrigin(fd)
    if (origin !== "socket" && origin !== "pipe") {
      closeFd(fd)
      throw new VhostUserError(
        "protocol",
        `back-end requests cannot be sent through a file of kind ${origin}`,
        {
          request: VHOST_USER_SET_BACKEND_REQ_FD,
        },
      )
    }
    this.close()
    this.#fd = fd
    this.#socket = origin === "socket"
    if (!this.#socket) setNonBlocking(fd)
  }

  /** Says that the configuration space changed. A front end that does not listen misses it. */
  configChanged(): void {
    if (this.#fd < 0) return
    const request = encodeMessage(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 0)
    try {
      if (this.#socket) sendMessage(this.#fd, request)
      else writeSync(this.#fd, request)
    } catch (error) {
      // Full: the front end will look when it reads what is there. Anything else: it is gone.
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") this.close()
    }
  }

  close(): void {
    if (this.#fd >= 0) closeFd(this.#fd)
    this.#fd = -1
  }
}
