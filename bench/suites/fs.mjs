// Reads and names through vhost-user-fs, driven by a C front end without a guest: ours beside QEMU's virtiofsd, same
// folder, same pinning, every answer checked.
import { mkdirSync, rmSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { goals } from "../harness.mjs"
import { output, PLACEMENTS, pinned, startServer } from "../process.mjs"
import { READS } from "../reads.mjs"
import { SharedMeasurement } from "../shared-measurement.mjs"

const OURS = fileURLToPath(new URL("../backends/serve-folder.mjs", import.meta.url))
const PEER = "/usr/lib/qemu/virtiofsd"
const PEER_NAME = "virtiofsd of QEMU"
const FILE = "file"
const FILE_BYTES = 256 * 1024 * 1024
const ROUND_SECONDS = "0.7"
const NAMES = 5000

const OPERATIONS = ["create", "lookup", "list", "unlink"]

const goalOf = better => (better === "higher" ? goals.ratioAtLeast(1) : goals.ratioAtMost(1))

/** QEMU's virtiofsd serves one connection and ends, so each measurement starts its server; the clock starts later. */
async function measure(server, placement, frontEndLine) {
  const { socket } = server
  const ends = []
  try {
    await startServer(pinned(placement.server, ...server.command(server.socket)), socket, end =>
      ends.push(end),
    )
    return JSON.parse(await output(pinned(placement.client, ...frontEndLine(socket))))
  } finally {
    for (const end of ends) await end()
    rmSync(socket, { force: true })
  }
}

function readCases(servers, placement, frontEnd) {
  const run = async (server, { args, figure, scale = 1 }) => {
    const seed = Math.floor(Math.random() * 2 ** 31)
    const line = socket => [frontEnd, "read", socket, FILE, ...args.map(String), ROUND_SECONDS, String(seed)]
    return (await measure(server, placement, line))[figure] * scale
  }
  return READS.map(workload => ({
    name: `${workload.name}, ${placement.name}`,
    unit: workload.unit,
    better: workload.better,
    ours: () => run(servers.ours, workload),
    peer: { name: PEER_NAME, measure: () => run(servers.peer, workload) },
    goal: goalOf(workload.better),
  }))
}

/** One run gives the figures of all operations. */
function nameCases(servers, placement, frontEnd) {
  const run = server => () => measure(server, placement, socket => [frontEnd, "names", socket, String(NAMES)])
  const ours = new SharedMeasurement(run(servers.ours))
  const peer = new SharedMeasurement(run(servers.peer))
  return OPERATIONS.map(operation => ({
    name: `${operation} of ${NAMES} files, each, ${placement.name}`,
    unit: "µs",
    better: "lower",
    ours: () => ours.figure(operation, all => all[`${operation}Us`]),
    peer: { name: PEER_NAME, measure: () => peer.figure(operation, all => all[`${operation}Us`]) },
    goal: goalOf("lower"),
  }))
}

export default {
  name: "fs",
  description: "vhost-user-fs back end without a guest",
  async prepare({ folder }) {
    const frontEnd = await compileFrontEnd("fs_bench")
    const shared = `${folder}/shared`
    mkdirSync(shared)
    await output([frontEnd, "make", `${shared}/${FILE}`, String(FILE_BYTES)])
    const options = `source=${shared},sandbox=chroot,cache=auto,no_posix_lock,no_flock`
    const servers = {
      ours: { command: socket => [process.execPath, OURS, shared, socket], socket: `${folder}/ours` },
      peer: { command: socket => [PEER, "-o", options, `--socket-path=${socket}`], socket: `${folder}/peer` },
    }
    const cases = []
    for (const placement of PLACEMENTS)
      cases.push(...readCases(servers, placement, frontEnd), ...nameCases(servers, placement, frontEnd))
    return cases
  },
}
