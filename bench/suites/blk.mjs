// Reads through vhost-user, driven by a C front end without a guest: ours beside qemu-storage-daemon, same file, same
// pinning, every answer checked against the file's pattern. And what must not make a difference: the size of the file,
// and how many queues there are. Two queues at a time are driven by two threads of the front end, server and client on both
// CPUs: there the queues of ours have threads of their own, beside one thread for both, and beside the peer.
import { rmSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { goals } from "../harness.mjs"
import { output, PLACEMENTS, pinned, startServer, versionOf, which } from "../process.mjs"
import { READS } from "../reads.mjs"

const OURS = fileURLToPath(new URL("../backends/serve-block.mjs", import.meta.url))
const PEER = "qemu-storage-daemon"
const MIB = 1024 * 1024
const FILE_MIB = 256
const ROUND_SECONDS = "0.7"
const WARM_UP_SECONDS = "2"
const [DEEP, SHALLOW, SEQUENTIAL] = READS
const BOTH_CPUS = "0,1"

/** What a disk is, as ours calls it, and as the peer does. */
const KINDS = {
  raw: file => [`driver=file,node-name=disk,filename=${file},read-only=on,aio=io_uring,locking=off`],
  direct: file => [
    `driver=file,node-name=disk,filename=${file},read-only=on,aio=io_uring,locking=off,cache.direct=on`,
  ],
  qcow2: file => [
    `driver=file,node-name=file,filename=${file},read-only=on,aio=io_uring,locking=off`,
    "driver=qcow2,node-name=disk,file=file,read-only=on",
  ],
}

const CASES = [
  { kind: "raw", read: DEEP, goal: goals.ratioAtLeast(2) },
  { kind: "raw", read: SHALLOW, goal: goals.ratioAtMost(0.8) },
  { kind: "raw", read: SEQUENTIAL, goal: goals.ratioAtLeast(1) },
  { kind: "direct", read: DEEP, what: "past the page cache", goal: goals.ratioAtLeast(1) },
  { kind: "qcow2", read: DEEP, what: "qcow2", goal: goals.ratioAtLeast(1) },
]

/** Starts servers once each, by what they serve and where. Each has run what it is measured at before that counts. */
class Servers {
  #folder
  #frontEnd
  #onEnd
  #started = new Map()

  constructor(folder, frontEnd, onEnd) {
    this.#folder = folder
    this.#frontEnd = frontEnd
    this.#onEnd = onEnd
  }

  ours(cpu, file, ...words) {
    return this.#start(cpu, ["ours", file, ...words], socket => [
      process.execPath,
      OURS,
      file,
      socket,
      ...words,
    ])
  }

  peer(cpu, file, kind, queues = 1) {
    const nodes = KINDS[kind](file).flatMap(node => ["--blockdev", node])
    const disk = socket =>
      `type=vhost-user-blk,id=export,node-name=disk,num-queues=${queues},addr.type=unix,addr.path=${socket}`
    return this.#start(cpu, ["peer", file, kind, queues], socket => [
      PEER,
      ...nodes,
      "--export",
      disk(socket),
    ])
  }

  #start(cpu, name, command) {
    const key = [cpu, ...name].join(" ")
    const socket = `${this.#folder}/s${this.#started.size}`
    const begin = async () => {
      await startServer(pinned(cpu, ...command(socket)), socket, this.#onEnd)
      await output([this.#frontEnd, "run", socket, ...DEEP.args.map(String), WARM_UP_SECONDS, "1"])
      return socket
    }
    if (!this.#started.has(key)) this.#started.set(key, begin())
    return this.#started.get(key)
  }
}

async function makeFiles(frontEnd, folder) {
  const files = { raw: `${folder}/disk`, small: `${folder}/small`, qcow2: `${folder}/disk.qcow2` }
  await output([frontEnd, "make", files.raw, String(FILE_MIB * MIB)])
  await output([frontEnd, "make", files.small, String((FILE_MIB / 16) * MIB)])
  if (which("qemu-img"))
    await output(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", files.raw, files.qcow2])
  else rmSync(files.qcow2, { force: true })
  return { ...files, direct: files.raw }
}

export default {
  name: "blk",
  description: "vhost-user-blk back end without a guest",
  async prepare({ folder, onEnd }) {
    const frontEnd = await compileFrontEnd("blk_bench")
    const files = await makeFiles(frontEnd, folder)
    const servers = new Servers(folder, frontEnd, onEnd)
    const run = async (cpu, socket, { args, figure, scale = 1 }, more = []) => {
      const seed = String(Math.floor(Math.random() * 2 ** 31))
      const words = ["run", await socket, ...args.map(String), ROUND_SECONDS, seed, ...more]
      return JSON.parse(await output(pinned(cpu, frontEnd, ...words)))[figure] * scale
    }
    const peerName = which(PEER) && `${versionOf(PEER).replace(" version", "").split(" (")[0]} aio=io_uring`
    const versus = ({ name, server, client }) =>
      CASES.map(({ kind, read, what, goal }) => ({
        name: `${what ? `${what}: ` : ""}${read.name}, ${name}`,
        unit: read.unit,
        better: read.better,
        ours: () => run(client, servers.ours(server, files[kind], kind), read),
        ...(peerName
          ? {
              peer: {
                name: peerName,
                measure: () => run(client, servers.peer(server, files[kind], kind), read),
              },
            }
          : { missing: `${PEER} is not installed` }),
        goal,
      }))
    const plain = ({ name, server, client }) => ({
      name: `${SEQUENTIAL.name}, ${name}`,
      unit: SEQUENTIAL.unit,
      better: SEQUENTIAL.better,
      ours: () => run(client, servers.ours(server, files.raw, "raw"), SEQUENTIAL),
      peer: {
        name: "plain pread",
        measure: async () => {
          const words = ["plain", files.raw, String(SEQUENTIAL.args[1]), ROUND_SECONDS]
          return (
            JSON.parse(await output(pinned(client, frontEnd, ...words))).bytesPerSecond * SEQUENTIAL.scale
          )
        },
      },
      goal: goals.ratioAtLeast(0.85),
    })
    const law = ({ server, client }, name, peer, large, small) => ({
      name: `flat in ${name}: ${DEEP.name}`,
      unit: DEEP.unit,
      better: DEEP.better,
      ours: () => run(client, servers.ours(server, ...large), DEEP),
      peer: { name: peer, measure: () => run(client, servers.ours(server, ...small), DEEP) },
      goal: goals.ratioAtLeast(0.8),
    })
    // A session's threads are new: what they compile first does not count.
    const twoQueues = (socket, read) => run(BOTH_CPUS, socket, read, ["2", WARM_UP_SECONDS])
    const threaded = (read, peer, goal) => ({
      name: `two queues at a time, a thread each: ${read.name}`,
      unit: read.unit,
      better: read.better,
      ours: () => twoQueues(servers.ours(BOTH_CPUS, files.raw, "raw", "2", "2"), read),
      ...peer(read),
      goal,
    })
    const oneThread = read => ({
      peer: {
        name: "ours, one thread for both",
        measure: () => twoQueues(servers.ours(BOTH_CPUS, files.raw, "raw", "2"), read),
      },
    })
    const daemon = read =>
      peerName
        ? {
            peer: {
              name: peerName,
              measure: () => twoQueues(servers.peer(BOTH_CPUS, files.raw, "raw", 2), read),
            },
          }
        : { missing: `${PEER} is not installed` }
    const parallel = [
      threaded(DEEP, oneThread, goals.ratioAtLeast(1.2)),
      threaded(DEEP, daemon, goals.ratioAtLeast(2)),
      threaded(SEQUENTIAL, oneThread, goals.ratioAtLeast(1)),
      threaded(SEQUENTIAL, daemon, goals.ratioAtLeast(1)),
    ]
    const last = PLACEMENTS.at(-1)
    const [whole, queues] = [`a ${FILE_MIB} MiB file`, "64 queues"]
    return [
      ...PLACEMENTS.flatMap(placement => [...versus(placement), plain(placement)]),
      law(last, whole, `ours, ${FILE_MIB / 16} MiB`, [files.raw, "raw"], [files.small, "raw"]),
      law(last, queues, "ours, 1 queue", [files.raw, "raw", "64"], [files.raw, "raw"]),
      ...(PLACEMENTS.length > 1 ? parallel : []),
    ]
  },
}
