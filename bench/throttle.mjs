// A line of a given speed between a registry and whoever asks it, which counts what goes through.
import { createServer, request } from "node:http"
import { Transform } from "node:stream"
import { setTimeout as delay } from "node:timers/promises"

/** All answers share the line: each piece waits for its turn. */
class Line {
  /** Bytes of answers so far. */
  bytes = 0
  #bytesPerMs
  #free = 0

  constructor(megabits) {
    this.#bytesPerMs = (megabits * 1e6) / 8 / 1000
  }

  async pass(length) {
    this.bytes += length
    const begin = Math.max(this.#free, performance.now())
    this.#free = begin + length / this.#bytesPerMs
    await delay(this.#free - performance.now())
  }
}

/** Whoever went away, at either end, takes the other along. */
function hand(line, target) {
  return (incoming, outgoing) => {
    const { method, headers, url } = incoming
    const onward = request(`http://${target}${url}`, { method, headers }, answer => {
      outgoing.writeHead(answer.statusCode, answer.headers)
      const slow = new Transform({
        transform: (chunk, _encoding, done) => line.pass(chunk.length).then(() => done(null, chunk), done),
      })
      answer.on("error", () => outgoing.destroy())
      answer.pipe(slow).pipe(outgoing)
    })
    onward.on("error", () => outgoing.destroy())
    outgoing.on("close", () => onward.destroy())
    incoming.pipe(onward)
  }
}

/**
 * Starts a proxy in front of a host.
 * @param {string} target HOST:PORT, which speaks plain HTTP
 * @param {number} megabits a second
 * @param {(work: () => unknown) => void} onEnd its end is registered here
 * @returns {Promise<{ host: string, line: Line }>}
 */
export async function throttle(target, megabits, onEnd) {
  const line = new Line(megabits)
  const server = createServer(hand(line, target))
  await new Promise(resolve => server.listen(0, "127.0.0.1", resolve))
  onEnd(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  return { host: `127.0.0.1:${server.address().port}`, line }
}
