// Reads and names through vhost-user-fs, driven by a C front end without a guest: ours beside QEMU's virtiofsd and the
// one in Rust that came after it, same folder, same pinning, every answer checked.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { goals } from "../harness.mjs"
import { newerProgram } from "../newer-debian.mjs"
import { output, PLACEMENTS, pinned, startServer } from "../process.mjs"
import { READS } from "../reads.mjs"
import { SharedMeasurement } from "../shared-measurement.mjs"

const OURS = fileURLToPath(new URL("../backends/serve-folder.mjs", import.meta.url))
const C_PEER = "/usr/lib/qemu/virtiofsd"
const MEMORY = "/dev/shm"
const FILE = "file"
const FILE_BYTES = 256 * 1024 * 1024
const ROUND_SECONDS = "0.7"
/** So many that no side is still compiling what it runs; the peers have an fd for each. */
const NAMES = Math.min(100_000, Math.floor(openFilesLimit() * 0.7))

/** RLIMIT_NOFILE, the most that a server may set for itself. */
function openFilesLimit() {
  return Number(/^Max open files +\S+ +(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"))?.[1])
}

const OPERATIONS = ["create", "lookup", "list", "unlink"]

/** The peer's side of a line, or why there is none. */
const beside = ({ name, missing }, better, measure) =>
  missing
    ? { missing }
    : { peer: { name, measure }, goal: better === "higher" ? goals.ratioAtLeast(1) : goals.ratioAtMost(1) }

/** QEMU's virtiofsd serves one connection and ends, so each measurement starts its server; the clock starts later. */
async function measure(server, folder, placement, frontEndLine) {
  const { socket } = server
  const ends = []
  try {
    await startServer(pinned(placement.server, ...server.command(folder, socket)), socket, end =>
      ends.push(end),
    )
    return JSON.parse(await output(pinned(placement.client, ...frontEndLine(socket))))
  } finally {
    for (const end of ends) await end()
    rmSync(socket, { force: true })
  }
}

function readCases(ours, peer, { disk }, placement, frontEnd) {
  const run = async (server, { args, figure, scale = 1 }) => {
    const seed = Math.floor(Math.random() * 2 ** 31)
    const line = socket => [frontEnd, "read", socket, FILE, ...args.map(String), ROUND_SECONDS, String(seed)]
    return (await measure(server, disk, placement, line))[figure] * scale
  }
  return READS.map(workload => ({
    name: `${workload.name}, ${placement.name}`,
    unit: workload.unit,
    better: workload.better,
    ours: () => run(ours, workload),
    ...beside(peer, workload.better, () => run(peer, workload)),
  }))
}

/** One run gives the figures of all operations. */
function nameCases(ours, peer, { memory }, placement, frontEnd) {
  const measurement = server =>
    new SharedMeasurement(() =>
      measure(server, memory, placement, socket => [frontEnd, "names", socket, String(NAMES)]),
    )
  const [mine, other] = [measurement(ours), measurement(peer)]
  return OPERATIONS.map(operation => {
    const figure = from => () => from.figure(operation, all => all[`${operation}Us`])
    return {
      name: `${operation} of ${NAMES} files, each, ${placement.name}`,
      unit: "µs",
      better: "lower",
      ours: figure(mine),
      ...beside(peer, "lower", figure(other)),
    }
  })
}

/** The servers, each in its fastest setting, with what each offers beside files switched off. */
async function findServers(folder) {
  const options = "sandbox=chroot,cache=auto,no_posix_lock,no_flock"
  const rust = await newerProgram("virtiofsd")
  const rustOptions = ["--sandbox", "chroot", "--cache", "auto"]
  const servers = [
    { name: "ours", command: (shared, socket) => [process.execPath, OURS, shared, socket] },
    {
      name: "virtiofsd of QEMU",
      command: (shared, socket) => [C_PEER, "-o", `source=${shared},${options}`, `--socket-path=${socket}`],
    },
    {
      name: "virtiofsd of Debian sid, in Rust",
      missing: rust.missing,
      command: (shared, socket) => [
        ...(rust.command ?? []),
        ...["--shared-dir", shared, "--socket-path", socket, ...rustOptions],
      ],
    },
  ]
  return servers.map((server, index) => ({ ...server, socket: `${folder}/${index}` }))
}

/** A folder on a disk, with the file to read, and one in memory for names: a disk's journal costs more than any server. */
async function makeFolders(folder, frontEnd, onEnd) {
  const disk = `${folder}/shared`
  mkdirSync(disk)
  await output([frontEnd, "make", `${disk}/${FILE}`, String(FILE_BYTES)])
  const memory = mkdtempSync(existsSync(MEMORY) ? `${MEMORY}/names-` : `${folder}/names-`)
  onEnd(() => rmSync(memory, { recursive: true }))
  return { disk, memory }
}

export default {
  name: "fs",
  description: "vhost-user-fs back end without a guest",
  async prepare({ folder, onEnd }) {
    const frontEnd = await compileFrontEnd("fs_bench")
    const folders = await makeFolders(folder, frontEnd, onEnd)
    const [ours, ...peers] = await findServers(folder)
    return PLACEMENTS.flatMap(placement =>
      peers.flatMap(peer => [
        ...readCases(ours, peer, folders, placement, frontEnd),
        ...nameCases(ours, peer, folders, placement, frontEnd),
      ]),
    )
  },
}
