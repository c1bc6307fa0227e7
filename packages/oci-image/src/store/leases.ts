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
 * part   `part-HEX-*`: the oldest one works, others wait        only saves work; the result is the same
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
      while ((await this.#others("gc-", lease.name)).length > 0) await sleep(POLL_MS, undefined, { signal })
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
   * Waits until this process is the oldest that wants to make `key`.
   *
   * @param isDone - looked at while waiting: whether another has made it
   * @returns undefined when it is done
   */
  async claim(
    key: string,
    isDone: () => Promise<boolean>,
    signal?: AbortSignal,
  ): Promise<AsyncDisposable | undefined> {
    const lease = await this.#announce(`part-${key}`)
    try {
      for (;;) {
        if (await isDone()) break
        if (!(await this.#others(`part-${key}-`, lease.name)).some(other => isBefore(other, lease)))
          return lease
        await sleep(POLL_MS, undefined, { signal })
      }
    } catch (error) {
      await lease[Symbol.asyncDispose]()
      throw error
    }
    await lease[Symbol.asyncDispose]()
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

interface Announced {
  readonly name: string
  readonly since: bigint
}

interface Lease extends Announced, AsyncDisposable {}

function isBefore(a: Announced, b: Announced): boolean {
  return a.since < b.since || (a.since === b.since && a.name < b.name)
}
