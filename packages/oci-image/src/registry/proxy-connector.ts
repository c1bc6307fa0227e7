import { request } from "node:http"
import type { Socket } from "node:net"
import { buildConnector } from "undici"
import { ImageError } from "../errors.js"
import { connectionError } from "./failures.js"
import type { ProxyAddress } from "./proxy-settings.js"

type Connector = buildConnector.connector
type Options = buildConnector.BuildOptions

/** How to get through a proxy. */
export interface ProxyOptions {
  readonly proxy: ProxyAddress
  /** For the connection to the proxy: whom to trust, when it speaks TLS. */
  readonly proxyTls: Options
  /** For the one to the server behind it. */
  readonly serverTls: Options
  /** For each step. */
  readonly timeoutMs: number
}

/**
 * Connects to servers through a proxy. To one with TLS it has the proxy dig a tunnel, in which the server proves who it is
 * as it does without one; a request over plain HTTP goes to the proxy itself, which has to be asked for whole addresses.
 *
 * @see RFC 9110, 9.3.6 "CONNECT"; RFC 9112, 3.2.2
 */
export function proxyConnector(options: ProxyOptions): Connector {
  const { proxy, timeoutMs: timeout } = options
  const toProxy = buildConnector({ timeout, ...options.proxyTls })
  const toServer = buildConnector({ timeout, ...options.serverTls })
  const { protocol, hostname, host, port } = proxy.url
  return (to, callback) => {
    const proxyPlace = { protocol, hostname, host, port: port || (protocol === "https:" ? "443" : "80") }
    toProxy(proxyPlace, (error, socket) => {
      if (error) return callback(proxyError(proxy, error), null)
      if (to.protocol !== "https:") return callback(null, socket as Socket)
      const server = `${to.hostname}:${to.port || 443}`
      digTunnel(socket as Socket, server, options)
        .then(httpSocket => toServer({ ...to, httpSocket } as buildConnector.Options, callback))
        .catch(failure => callback(failure, null))
    })
  }
}

/** @throws ImageError `registry-proxy`, `registry-unavailable`, `registry-timeout`, `registry-protocol` */
function digTunnel(socket: Socket, server: string, { proxy, timeoutMs }: ProxyOptions): Promise<Socket> {
  const { authorization } = proxy
  const headers = { host: server, ...(authorization ? { "proxy-authorization": authorization } : {}) }
  return new Promise((resolve, reject) => {
    const asked = request({ method: "CONNECT", path: server, headers, createConnection: () => socket })
    const fail = (error: Error) => {
      clearTimeout(timer)
      socket.destroy()
      reject(error)
    }
    const timer = setTimeout(() => fail(proxyError(proxy, timeoutError())), timeoutMs)
    asked.once("error", cause => fail(proxyError(proxy, cause)))
    asked.once("connect", ({ statusCode = 0 }, tunnel, head) => {
      if (statusCode < 200 || statusCode > 299) return fail(refusal(proxy, server, statusCode))
      // In TLS the client speaks first: this is not from the server.
      if (head.length > 0) return fail(chatter(proxy))
      clearTimeout(timer)
      resolve(tunnel as Socket)
    })
    asked.end()
  })
}

function timeoutError(): NodeJS.ErrnoException {
  return Object.assign(new Error("no answer to CONNECT"), { code: "ETIMEDOUT" })
}

/** The error of a proxy that cannot be talked to. */
function proxyError({ url }: ProxyAddress, cause: unknown): ImageError {
  const { code, message, fields } = connectionError(url, cause)
  return new ImageError(code, `the proxy: ${message}`, fields, { cause })
}

function chatter({ url: { host } }: ProxyAddress): ImageError {
  return new ImageError("registry-protocol", `the proxy ${host} sends something before it was asked`, {
    host,
  })
}

/** The error of a proxy that answers for the server. What it could not reach may be there next time. */
export function refusal({ url: { host } }: ProxyAddress, server: string, status: number): ImageError {
  const fields = { host, to: server, status }
  if (status === 407) {
    const hint = "put them into its address, http://USER:PASSWORD@HOST:PORT"
    return new ImageError("registry-proxy", `the proxy ${host} wants other credentials: ${hint}`, fields)
  }
  const code = status >= 500 ? "registry-unavailable" : "registry-proxy"
  return new ImageError(code, `the proxy ${host} does not lead to ${server} (HTTP ${status})`, fields)
}
