/**
 * Throughput of one vsock stream against a raw AF_UNIX stream socket, 64 KiB at a time, all in this process.
 *
 * The guest is simulated: a driver over real split rings, with receive buffers as small as Linux's, that
 * copies every payload once more, as a guest kernel does for its program. AF_UNIX is a socket pair with no
 * stream layer on it: a write, then reads.
 *
 *   node packages/vsock/bench/stream.mjs [rounds]
 */
import { createRequire } from "node:module"
import { pathToFileURL } from "node:url"
import { VsockDevice } from "@ts-vmm/vsock"
import { RingGuest } from "@ts-vmm/vsock/testing"

const CHUNK = 64 * 1024
const ROUND_BYTES = 256 * 1024 * 1024
const WARM_UP_ROUNDS = 3
const PORT = 80

/** One way of moving bytes; `round` moves ROUND_BYTES. */
class Arrivals {
  #left = 0
  #done = () => undefined

  expect() {
    this.#left = ROUND_BYTES
    return new Promise(resolve => {
      this.#done = resolve
    })
  }

  add(count) {
    this.#left -= count
    if (this.#left === 0) this.#done()
  }
}

async function hostToGuest() {
  const device = new VsockDevice({ guestCid: 3 })
  const ring = new RingGuest(device)
  const arrivals = new Arrivals()
  const program = new Uint8Array(CHUNK)
  ring.guest.listen(PORT, {
    onData(bytes) {
      program.set(bytes)
      arrivals.add(bytes.length)
    },
  })
  const stream = await device.connect(PORT)
  stream.on("error", () => undefined)
  const chunk = Buffer.alloc(CHUNK, 1)
  const round = () => {
    const arrived = arrivals.expect()
    let left = ROUND_BYTES
    const send = () => {
      for (; left > 0; left -= CHUNK) if (!stream.write(chunk)) break
      if (left > 0) stream.once("drain", send)
      if (left > 0) left -= CHUNK
    }
    send()
    return arrived
  }
  return { round, end: () => ring[Symbol.dispose]() }
}

function guestToHost(receive) {
  return async () => {
    const device = new VsockDevice({ guestCid: 3 })
    const ring = new RingGuest(device)
    const arrivals = new Arrivals()
    device.listen(PORT, stream =>
      receive(
        stream.on("error", () => undefined),
        arrivals,
      ),
    )
    const socket = await ring.guest.connect(PORT)
    const chunk = new Uint8Array(CHUNK).fill(1)
    const round = () => {
      const arrived = arrivals.expect()
      for (let left = ROUND_BYTES; left > 0; left -= CHUNK) socket.write(chunk)
      return arrived
    }
    return { round, end: () => ring[Symbol.dispose]() }
  }
}

async function unixSocket() {
  const fromDevices = createRequire(
    createRequire(import.meta.url).resolve("@ts-vmm/virtio-devices/package.json"),
  )
  const native = await import(pathToFileURL(fromDevices.resolve("@ts-vmm/native")).href)
  const [a, b] = native.socketPair()
  const chunk = Buffer.alloc(CHUNK, 1)
  const program = Buffer.alloc(CHUNK)
  const round = () => {
    for (let left = ROUND_BYTES; left > 0; ) {
      for (let sent = native.sendMessage(a, chunk); sent > 0; ) {
        const { length } = native.receiveMessage(b, program)
        sent -= length
        left -= length
      }
    }
  }
  const end = () => {
    native.closeFd(a)
    native.closeFd(b)
  }
  return { round, end }
}

const OURS = {
  "host-to-guest": hostToGuest,
  "guest-to-host": guestToHost((stream, arrivals) => stream.on("data", chunk => arrivals.add(chunk.length))),
  "guest-to-host-lent": guestToHost((stream, arrivals) =>
    stream.lendTo((chunk, done) => {
      arrivals.add(chunk.length)
      done()
    }),
  ),
}

/**
 * Runs the comparison, rounds interleaved.
 *
 * @param {number} rounds
 * @returns {Promise<{name: string, unit: "MB/s", ours: number, peer: number, peerName: string, ratio: number, goal: number, rounds: number}[]>}
 *   medians; `ratio` is ours to the peer's, higher is better
 */
export async function measureStream(rounds = 7) {
  const runs = []
  for (const [name, start] of Object.entries({ ...OURS, peer: unixSocket })) {
    const subject = await start()
    for (let i = 0; i < WARM_UP_ROUNDS; i++) await subject.round()
    runs.push({ name, ...subject, rates: [] })
  }
  for (let i = 0; i < rounds; i++) {
    for (const run of runs) {
      const start = performance.now()
      await run.round()
      run.rates.push(ROUND_BYTES / (performance.now() - start) / 1000)
    }
  }
  for (const run of runs) run.end()
  const peer = median(runs.pop().rates)
  return runs.map(run => {
    const ours = median(run.rates)
    return {
      name: `stream-64k-${run.name}`,
      unit: "MB/s",
      ours: Math.round(ours),
      peer: Math.round(peer),
      peerName: "AF_UNIX socket pair",
      ratio: Number((ours / peer).toFixed(2)),
      goal: 0.5,
      rounds,
    }
  })
}

function median(values) {
  return values.toSorted((a, b) => a - b)[values.length >> 1]
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  for (const row of await measureStream(Number(process.argv[2] ?? 7))) console.log(JSON.stringify(row))
}
