// Answers that end with their connection while nobody reads them: undici's parser rests then.

import type { AddressInfo } from "node:net"
import { createServer, type Server, type Socket } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, expect, test } from "vitest"
import { endpointsOf } from "./hosts.js"
import { type Answer, Transport } from "./transport.js"

const hosts = new Map([["*", { plainHttp: true }]])
/** What is read ahead: with its last byte the parser rests. */
const BODY = Buffer.alloc(65_536, "x")
const CLOSE = "HTTP/1.1 200 OK\r\nConnection: close\r\n"

let server: Server | undefined
let transport: Transport | undefined

afterEach(async () => {
  await transport?.close()
  await new Promise(resolve => server?.close(resolve))
})

/** Asks a server that says this and then ends the connection. */
async function ask(head: string, end: (socket: Socket) => void): Promise<Answer> {
  server = createServer(socket => {
    socket.on("error", () => undefined)
    socket.once("data", () => {
      socket.write(head)
      socket.write(BODY, () => end(socket))
    })
  })
  await new Promise<void>(resolve => server?.listen(0, "127.0.0.1", resolve))
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  const [endpoint] = endpointsOf(host, hosts)
  if (!endpoint) throw new Error("there is no endpoint")
  transport = new Transport({ attempts: 1 }, hosts)
  return await transport.send({ url: new URL(`http://${host}/`), endpoint, headers: {} })
}

/** Reads one piece at a time, with a rest after each. */
async function readSlowly({ body }: Answer): Promise<number> {
  let size = 0
  for await (const chunk of body) {
    size += chunk.length
    await sleep(2)
  }
  return size
}

test.each([
  ["whose length is told", `${CLOSE}Content-Length: ${BODY.length}\r\n\r\n`],
  ["whose end is the connection's", `${CLOSE}\r\n`],
])("I13: an answer %s is read whole by a slow reader", async (_, head) => {
  const answer = await ask(head, socket => socket.end())
  await sleep(100)
  expect(await readSlowly(answer)).toBe(BODY.length)
})

test.each([
  ["ends too early", (socket: Socket) => void socket.end()],
  ["is reset", (socket: Socket) => void socket.resetAndDestroy()],
])("I13: a connection that %s while nobody reads is an error of the reader's", async (_, end) => {
  const answer = await ask(`${CLOSE}Content-Length: ${BODY.length + 1}\r\n\r\n`, end)
  await sleep(100)
  await expect(readSlowly(answer)).rejects.toThrow()
})
