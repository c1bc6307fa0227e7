import type { RateLimit, RateLimiter } from "../rate-limiter.js"

const MAX_QUEUES = 64

/** How a `BlockDevice` presents its disk. */
export interface BlockDeviceOptions {
  /** What GET_ID answers, at most 20 bytes of ASCII; Linux shows it as `/sys/block/vdX/serial`. Default empty. */
  readonly serial?: string
  /** Number of request queues, 1 to 64; default 1. */
  readonly queues?: number
  /**
   * Number of threads that serve the request queues, up to one a queue, each with an event loop of its own: queue `i`
   * belongs to thread `i % threads`. For disks that are one raw file, without `rateLimit`, behind a transport that can
   * (vhost-user). Default 0: the thread that has the device serves them all.
   */
  readonly threads?: number
  /** Size of each queue in descriptors; default 256. */
  readonly queueSize?: number
  /** Logical block size offered, 512 to 4096; default 512. */
  readonly blockSize?: number
  /**
   * How fast the disk may be; default as fast as it is. Requests over the limit wait in their queues. All requests
   * count, at the size of their data, also those that are refused. A {@link RateLimiter} may be shared with other devices.
   */
  readonly rateLimit?: RateLimit | RateLimiter
  /**
   * Called with the errno, positive, of every write, flush or discard that the host could not do: the guest learns no more
   * than that it failed. `EIO` for one that was cut short.
   */
  readonly onWriteError?: (errno: number) => void
}

/** @throws RangeError for an option out of its range */
export function checkOptions(options: BlockDeviceOptions): void {
  const { serial = "", queues = 1, threads = 0, blockSize = 512, rateLimit } = options
  if (!/^[\x20-\x7e]{0,20}$/.test(serial)) throw new RangeError("serial must be at most 20 ASCII characters")
  if (!(Number.isInteger(queues) && queues >= 1 && queues <= MAX_QUEUES)) {
    throw new RangeError(`queues must be an integer from 1 to ${MAX_QUEUES}`)
  }
  if (!(Number.isInteger(threads) && threads >= 0 && threads <= queues))
    throw new RangeError(`threads must be an integer from 0 to ${queues}, the number of queues`)
  if (threads > 0 && rateLimit)
    throw new RangeError("a rateLimit cannot be shared by threads: leave out one of them")
  if (![512, 1024, 2048, 4096].includes(blockSize))
    throw new RangeError("blockSize must be 512, 1024, 2048 or 4096")
}
