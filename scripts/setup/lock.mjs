import { createHash } from "node:crypto"
import { once } from "node:events"
import { connect, createServer } from "node:net"
import { ROOT } from "./paths.mjs"
import { note } from "./report.mjs"

/** An abstract socket: it vanishes with the process that holds it, however that ends. */
function addressOf(name) {
  const checkout = createHash("sha1").update(ROOT).digest("hex")
  return `\0ts-vmm-${checkout}-${name}`
}

async function tryListen(address) {
  const waiting = new Set()
  const server = createServer(socket => {
    waiting.add(socket.on("error", () => waiting.delete(socket)).unref())
  })
  try {
    server.listen(address)
    await once(server, "listening")
  } catch (error) {
    if (error.code === "EADDRINUSE") return undefined
    throw error
  }
  server.unref()
  return () => {
    server.close()
    for (const socket of waiting) socket.destroy()
  }
}

/** Resolves when the present holder is gone. */
function untilReleased(address) {
  return new Promise(resolve => {
    connect(address)
      .on("error", () => resolve(undefined))
      .on("close", resolve)
      .resume()
  })
}

/**
 * Runs `work` while no other process on this checkout holds the lock `name`.
 * @template T
 * @param {string} name
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function withLock(name, work) {
  const address = addressOf(name)
  let release = await tryListen(address)
  if (!release) note(`  waiting for another process that is at the same step (${name})`)
  for (; !release; release = await tryListen(address)) await untilReleased(address)
  try {
    return await work()
  } finally {
    release()
  }
}
