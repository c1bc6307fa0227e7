// Images of many files, and Debian's docker-registry on loopback that has them.
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createReadStream, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { connect, createServer } from "node:net"
import { setTimeout as delay } from "node:timers/promises"
import { createGunzip } from "node:zlib"
import { localImage } from "../scripts/images/index.mjs"
import { ROOT } from "../scripts/setup/paths.mjs"
import { complete } from "./process.mjs"

const { packImage } = await import(`${ROOT}/packages/oci-image/dist/index.js`)

/** Bytes of one layer's files by how large each is: as in a distribution, most are small and few have most of it. */
const FILES = [
  { count: 1500, bytes: 8_000 },
  { count: 40, bytes: 250_000 },
  { count: 2, bytes: 9_000_000 },
]
/** Bytes of all files of a layer. */
export const LAYER_BYTES = FILES.reduce((sum, { count, bytes }) => sum + count * bytes, 0)
const POOL_BYTES = 12_000_000
const START_LIMIT_MS = 10_000

/** Equal numbers every time. @see Marsaglia, "Xorshift RNGs" */
function randomNumbers() {
  let state = 0x2545f491
  return below => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}

/** Text that gzip packs about as well as programs and documents, and bytes that it does not pack. */
function pools(random) {
  const words = Array.from({ length: 4096 }, () => random(36 ** 5).toString(36))
  const text = Buffer.alloc(POOL_BYTES)
  for (let at = 0; at < POOL_BYTES; ) at += text.write(`${words[random(words.length)]} `, at)
  const noise = new Uint32Array(POOL_BYTES / 4).map(() => random(2 ** 32))
  return [text, text, Buffer.from(noise.buffer)]
}

/** Files of one layer; contents are cut out of the pools. */
function* filesOf(layer, random, content) {
  for (const { count, bytes } of FILES)
    for (let i = 0; i < count; i++) {
      // Sizes differ, and add up to what they would be.
      const size = i % 2 === 0 ? Math.ceil(bytes / 2) : 2 * bytes - Math.ceil(bytes / 2)
      const at = random(POOL_BYTES - 2 * bytes)
      const pool = content[random(content.length)]
      yield { path: `data/${layer}/${bytes}/${i % 16}/${i}`, content: pool.subarray(at, at + size) }
    }
}

/** Writes an image as a layout: a busybox, so that it runs, and layers of files. */
async function writeImage(folder, layerCount) {
  const busybox = await localImage("busybox")
  const blob = digest => `${busybox}/blobs/${digest.replace(":", "/")}`
  const [root] = JSON.parse(readFileSync(`${busybox}/index.json`, "utf8")).manifests
  const { layers } = JSON.parse(readFileSync(blob(root.digest), "utf8"))
  const random = randomNumbers()
  const content = pools(random)
  await packImage(folder, {
    compression: "gzip",
    layers: [
      ...layers.map(({ digest }) => ({ tar: createReadStream(blob(digest)).pipe(createGunzip()) })),
      ...Array.from({ length: layerCount }, (_, layer) => ({ files: filesOf(layer, random, content) })),
    ],
    config: { cmd: ["/bin/sh"], env: ["PATH=/bin"] },
  })
}

/**
 * Starts an empty registry.
 * @param {string} folder scratch
 * @param {(work: () => unknown) => void} onEnd its end is registered here
 */
export async function imageRegistry(folder, onEnd) {
  const port = await freePort()
  const host = `127.0.0.1:${port}`
  const config = `${folder}/registry.yml`
  mkdirSync(`${folder}/registry`)
  const storage = { filesystem: { rootdirectory: `${folder}/registry` } }
  const log = { level: "error", accesslog: { disabled: true } }
  writeFileSync(config, JSON.stringify({ version: 0.1, log, storage, http: { addr: host, secret: "bench" } }))
  const child = spawn("docker-registry", ["serve", config], {
    stdio: "ignore",
    env: { PATH: process.env.PATH, OTEL_TRACES_EXPORTER: "none" },
  })
  onEnd(async () => {
    if (child.exitCode === null && child.signalCode === null && child.kill()) await once(child, "close")
  })
  await untilListening(port, child)
  const registries = `${folder}/registries.json`
  writeFileSync(registries, JSON.stringify({ hosts: { [host]: { plainHttp: true } } }))
  return {
    /** Path of a `registries.json` for it. */
    registries,
    /** Makes an image of so many layers of `LAYER_BYTES`, and resolves with its name. */
    async addImage(layerCount) {
      const [layout, name] = [`${folder}/layout-${layerCount}`, `${host}/bench/image:${layerCount}`]
      await writeImage(layout, layerCount)
      await complete([
        ...["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"],
        ...[`oci:${layout}:latest`, `docker://${name}`],
      ])
      rmSync(layout, { recursive: true })
      return name
    },
  }
}

/** docker-registry does not say which port it took, so it cannot choose one. */
async function freePort() {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const { port } = server.address()
  server.close()
  await once(server, "close")
  return port
}

async function untilListening(port, child) {
  const limit = Date.now() + START_LIMIT_MS
  while (!(await canConnect(port))) {
    if (child.exitCode !== null) throw new Error(`docker-registry ended with code ${child.exitCode}`)
    if (Date.now() > limit)
      throw new Error(`docker-registry does not listen after ${START_LIMIT_MS / 1000} s`)
    await delay(50)
  }
}

function canConnect(port) {
  return new Promise(resolve => {
    const socket = connect(port, "127.0.0.1", () => resolve(true)).once("error", () => resolve(false))
    socket.once("connect", () => socket.destroy())
  })
}
