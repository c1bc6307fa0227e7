import { createServer, request, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"

/** Hands requests on, adds up what comes back, and is lost when it is told to be. */
export class CountingProxy implements AsyncDisposable {
  readonly #server: Server
  bytes = 0
  isLost = false
  /** Before each request is handed on: what is not asked for first comes late. */
  delayMs = 0

  private constructor(target: string) {
    this.#server = createServer(async (incoming, outgoing) => {
      await sleep(this.delayMs)
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

  static async start(target: string): Promise<CountingProxy> {
    const proxy = new CountingProxy(target)
    await new Promise<void>(resolve => proxy.#server.listen(0, "127.0.0.1", resolve))
    return proxy
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise(resolve => this.#server.close(resolve))
  }
}
