import { open, readdir, rm, stat } from "node:fs/promises"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { ioError } from "../errors.js"
import { isOwnerAlive, ownedName } from "./owner.js"

const POLL_MS = 10

/**
 * Files that say what running processes do, so that they need no lock: each is made and removed by its owner
 * only, and counts only while that process lives.
 *
 * ```
 * load   makes `load-*`, waits while there is a `gc-*`          collector and loads never overlap:
 * gc     makes `gc-*`, gives up when there is a `load-*`        each announces itself before it looks
 * queue  `queue-KEY-*`: the oldest may try to work, others wait
 * work   makes `work-KEY-*`, steps back when there is another   of two that try, one at least sees the other
 * ```
 */
export class Leases {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  /** Announces a load and waits for a running collection to end. */
  async load(signal?: AbortSignal): Promise<AsyncDisposable> {
    const lease = await this.#announce("load")
    try {
      while ((await this.#others("gc-", lease.name)).length > 0) await pause(signal)
      return lease
    } catch (error) {
      await lease[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Announces a collection; undefined when something is being loaded or collected right now. */
  async collect(): Promise<AsyncDisposable | undefined> {
    const lease = await this.#announce("gc")
    const busy = [...(await this.#others("load-", lease.name)), ...(await this.#others("gc-", lease.name))]
    if (busy.length === 0) return lease
    await lease[Symbol.asyncDispose]()
    return undefined
  }

  /**
   * Waits until nobody else makes `key`, of this process or another one.
   *
   * @param isDone - whether it is made; looked at while waiting, and once more by the one that would make it
   * @returns undefined when it is done; else nobody but the caller makes it until this is disposed of
   */
  async claim(
    key: string,
    isDone: () => Promise<boolean>,
    signal?: AbortSignal,
  ): Promise<AsyncDisposable | undefined> {
    const place = await this.#announce(`queue-${key}`)
    try {
      for (;;) {
        const work = await this.#tryToWork(key, place)
        // Looked at behind the try: whoever worked until now may just have made it.
        if (await settled(work, isDone)) return undefined
        if (work) return work
        await pause(signal)
      }
    } finally {
      await place[Symbol.asyncDispose]()
    }
  }

  /**
   * The order of the queue is no lock: clocks are coarse, and who looked early did not see who came later. So the oldest
   * says that it works, and looks whether another does. Should both step back, only the older one of them tries again.
   */
  async #tryToWork(key: string, place: Lease): Promise<Lease | undefined> {
    const queue = await this.#others(`queue-${key}-`, place.name)
    if (queue.some(other => isBefore(other, place))) return undefined
    if ((await this.#others(`work-${key}-`, "")).length > 0) return undefined
    const work = await this.#announce(`work-${key}`)
    if ((await this.#others(`work-${key}-`, work.name)).length === 0) return work
    await work[Symbol.asyncDispose]()
    return undefined
  }

  async #announce(kind: string): Promise<Lease> {
    const name = `${kind}-${ownedName()}`
    const path = join(this.#folder, name)
    const file = await open(path, "wx", 0o600).catch(error => {
      throw ioError(error, "cannot announce work on the image store")
    })
    try {
      const { mtimeNs } = await file.stat({ bigint: true })
      return { name, since: mtimeNs, [Symbol.asyncDispose]: () => rm(path, { force: true }) }
    } finally {
      await file.close()
    }
  }

  async #others(prefix: string, own: string): Promise<Announced[]> {
    const names = (await readdir(this.#folder)).filter(name => name.startsWith(prefix) && name !== own)
    const found: Announced[] = []
    for (const name of names) {
      const is = await stat(join(this.#folder, name), { bigint: true }).catch(() => undefined)
      if (is && isOwnerAlive(name, Number(is.mtimeMs))) found.push({ name, since: is.mtimeNs })
    }
    return found
  }
}

/** Whether it is done; then, and when it cannot be told, nobody works any more. */
async function settled(work: Lease | undefined, isDone: () => Promise<boolean>): Promise<boolean> {
  let done = true
  try {
    done = await isDone()
  } finally {
    if (done) await work?.[Symbol.asyncDispose]()
  }
  return done
}

/** @throws the signal's reason, at the latest when the pause is over */
async function pause(signal: AbortSignal | undefined): Promise<void> {
  await sleep(POLL_MS)
  signal?.throwIfAborted()
}

interface Announced {
  readonly name: string
  readonly since: bigint
}

interface Lease extends Announced, AsyncDisposable {}

function isBefore(a: Announced, b: Announced): boolean {
  return a.since < b.since || (a.since === b.since && a.name < b.name)
}
