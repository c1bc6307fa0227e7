// A reverse proxy on loopback that misbehaves: it stands before a registry, and what it does to each request is chosen.
import { createServer, type IncomingMessage, type ServerResponse, request as send } from "node:http"
import type { AddressInfo } from "node:net"

/** One request on its way. */
export interface Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  /** The registry's answer, whole. Images of tests are small. */
  fetch(): Promise<Answer>
}

/** What the registry answers. */
export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly body: Buffer
}

/** What is done to a request instead of passing it on. */
export type Fault = (exchange: Exchange) => Promise<void> | void

/** Hands the answer on as it is. */
export const pass: Fault = async ({ response, fetch }) => {
  const { status, headers, body } = await fetch()
  response.writeHead(status, { ...headers }).end(body)
}

/** Ends the connection after some bytes of the body, in an orderly way or as if its other end were gone. */
export const cutAfter =
  (bytes: number, end: "destroy" | "resetAndDestroy" = "destroy"): Fault =>
  async ({ response, fetch }) => {
    const { status, headers, body } = await fetch()
    response.writeHead(status, { ...headers })
    response.write(body.subarray(0, Math.min(bytes, body.length - 1)), () => response.socket?.[end]())
  }

/** Ends the connection before there is any answer. */
export const reset: Fault = ({ request }) => void request.socket.resetAndDestroy()

/** Says another length than the body has. */
export const lengthOff =
  (difference: number): Fault =>
  async ({ response, fetch }) => {
    const { status, headers, body } = await fetch()
    const length = Number(headers["content-length"] ?? body.length) + difference
    response.writeHead(status, { ...headers, "content-length": length })
    response.end(difference < 0 ? body.subarray(0, Math.max(length, 0)) : body)
  }

/** Turns one bit over. */
export const wrongByte: Fault = async ({ response, fetch }) => {
  const { status, headers, body } = await fetch()
  const at = body.length >> 1
  if (body.length > 0) body[at] = (body[at] as number) ^ 1
  response.writeHead(status, { ...headers }).end(body)
}

/** Sends the body one byte at a time, so that nothing ever stands still. */
export const drip: Fault = async ({ response, fetch }) => {
  const { status, headers, body } = await fetch()
  response.writeHead(status, { ...headers })
  response.flushHeaders()
  let at = 0
  const timer = setInterval(() => {
    if (at < body.length) response.write(body.subarray(at, ++at))
    else response.end()
  }, 100)
  response.once("close", () => clearInterval(timer))
}

/** Never answers. */
export const silence: Fault = () => undefined

/** Says something else than the registry. */
export const answer =
  (status: number, headers: Readonly<Record<string, string>> = {}, body = ""): Fault =>
  ({ request, response }) =>
    void response.writeHead(status, headers).end(request.method === "HEAD" ? undefined : body)

/** Sends a request elsewhere. */
export const redirect =
  (origin: string): Fault =>
  ({ request, response }) =>
    void response.writeHead(307, { location: `${origin}${request.url}` }).end()

/** Leaves out how long the answer is. */
export const withoutLength: Fault = async ({ response, fetch }) => {
  const { status, headers, body } = await fetch()
  const { "content-length": _, ...rest } = headers
  response.writeHead(status, rest).end(body)
}

/** The same without chunks either: the answer's end is the connection's. */
export const untilClosed: Fault = async ({ response, fetch }) => {
  const { status, headers, body } = await fetch()
  const { "content-length": _, ...rest } = headers
  const lines = Object.entries(rest).map(([name, value]) => `${name}: ${value}`)
  response.socket?.end(
    Buffer.concat([
      Buffer.from([`HTTP/1.1 ${status} X`, ...lines, "connection: close", "", ""].join("\r\n")),
      response.req.method === "HEAD" ? Buffer.alloc(0) : body,
    ]),
  )
}

/** Speaks something else than HTTP. */
export const garbage: Fault = ({ response }) => void response.socket?.end("\x16\x03\x01 no HTTP \r\n\r\n")

/** One proxy before one registry. */
export class FaultProxy implements AsyncDisposable {
  /** Chooses what happens to a request; undefined passes it on. */
  plan: (request: IncomingMessage) => Fault | undefined = () => undefined
  /** Every request, in order. */
  readonly requests: IncomingMessage[] = []
  readonly #server = createServer((request, response) => void this.#handle(request, response))
  readonly #target: string

  private constructor(target: string) {
    this.#target = target
  }

  /** @param target - `HOST:PORT` of a registry that speaks plain HTTP */
  static async start(target: string): Promise<FaultProxy> {
    const proxy = new FaultProxy(target)
    await new Promise<void>(resolve => proxy.#server.listen(0, "127.0.0.1", resolve))
    return proxy
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  get origin(): string {
    return `http://${this.host}`
  }

  /** Misbehaves at some requests, a number of times; then all is well. */
  failAt(
    isMeant: (request: IncomingMessage) => boolean,
    fault: Fault,
    times = Number.POSITIVE_INFINITY,
  ): void {
    let left = times
    this.plan = request => (isMeant(request) && left-- > 0 ? fault : undefined)
  }

  /** Behaves well again, and forgets what was asked. */
  heal(): void {
    this.plan = () => undefined
    this.requests.length = 0
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.requests.push(request)
    const fault = this.plan(request) ?? pass
    response.on("error", () => undefined) // the client may be gone before the answer is
    try {
      await fault({ request, response, fetch: () => fetchFrom(this.#target, request) })
    } catch {
      response.destroy() // the registry has no answer, so there is none
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise(resolve => this.#server.close(resolve))
  }
}

/** Asks the registry itself what the proxy was asked. */
function fetchFrom(target: string, { method, url, headers }: IncomingMessage): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asking = send(`http://${target}${url}`, {
      method,
      headers: { ...headers, host: target },
      agent: false,
    })
    asking.once("error", reject).once("response", async response => {
      try {
        const chunks: Buffer[] = []
        for await (const chunk of response) chunks.push(chunk)
        const { "transfer-encoding": _, connection: __, ...rest } = response.headers
        resolve({ status: response.statusCode ?? 0, headers: rest, body: Buffer.concat(chunks) })
      } catch (error) {
        reject(error)
      }
    })
    asking.end()
  })
}
