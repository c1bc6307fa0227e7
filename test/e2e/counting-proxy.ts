import { createServer, request, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"

/** Of a blob: where what is held begins, and ends. */
export interface HeldBytes {
  readonly from: number
  readonly to: number
}

/** Hands requests on, adds up what comes back, and is lost when it is told to be. */
export class CountingProxy implements AsyncDisposable {
  readonly #server: Server
  bytes = 0
  isLost = false
  /** Before each request is handed on: what is not asked for first comes late. */
  delayMs = 0
  #held: HeldBytes | undefined
  #letGo: () => void = () => undefined
  #released: Promise<void> = Promise.resolve()

  private constructor(target: string) {
    this.#server = createServer(async (incoming, outgoing) => {
      await sleep(this.delayMs)
      if (this.#holds(incoming.headers.range)) await this.#released
      if (this.isLost) {
        incoming.socket.destroy()
        return
      }
      const { method, headers, url } = incoming
      const onward = request(`http://${target}${url}`, { method, headers }, answer => {
        outgoing.writeHead(answer.statusCode ?? 500, answer.headers)
        answer.on("data", (chunk: Buffer) => {
          this.bytes += chunk.length
        })
        answer.pipe(outgoing)
      })
      // Who went away first does not matter.
      onward.on("error", () => outgoing.destroy())
      outgoing.on("close", () => onward.destroy())
      incoming.pipe(onward)
    })
  }

  /**
   * Requests for bytes of a blob from there on wait until it is undefined again: what comes when is then no matter of how
   * fast this machine is.
   */
  set held(held: HeldBytes | undefined) {
    this.#letGo()
    this.#held = held
    if (!held) return
    this.#released = new Promise(resolve => {
      this.#letGo = resolve
    })
  }

  #holds(range: string | undefined): boolean {
    const first = Number(/^bytes=(\d+)/.exec(range ?? "")?.[1] ?? -1)
    return this.#held !== undefined && first >= this.#held.from && first < this.#held.to
  }

  static async start(target: string): Promise<CountingProxy> {
    const proxy = new CountingProxy(target)
    await new Promise<void>(resolve => proxy.#server.listen(0, "127.0.0.1", resolve))
    return proxy
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.held = undefined
    this.#server.closeAllConnections()
    await new Promise(resolve => this.#server.close(resolve))
  }
}
