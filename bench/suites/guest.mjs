// What programs in a guest get of its disk, a folder of the host and the network: fio and iperf3 in a sandbox on User Mode
// Linux, beside the same programs on the host, on the same file system and over loopback.
import { spawn } from "node:child_process"
import { once } from "node:events"
import { mkdirSync } from "node:fs"
import { createServer } from "node:net"
import { localImage } from "../../scripts/images/index.mjs"
import { ROOT } from "../../scripts/setup/paths.mjs"
import { complete, output, which } from "../process.mjs"

const SECONDS = 2
const FILE_SIZE = "128M"
const MIB = 2 ** 20

/** Past the guest's page cache, so that the device is what is measured. */
const WORKLOADS = [
  { name: "4 KiB random read, depth 1", args: ["--rw=randread", "--bs=4k", "--iodepth=1"], unit: "IOPS" },
  { name: "4 KiB random read, depth 32", args: ["--rw=randread", "--bs=4k", "--iodepth=32"], unit: "IOPS" },
  { name: "4 KiB random write, depth 32", args: ["--rw=randwrite", "--bs=4k", "--iodepth=32"], unit: "IOPS" },
  { name: "1 MiB sequential read", args: ["--rw=read", "--bs=1m", "--iodepth=4"], unit: "MiB/s" },
  { name: "1 MiB sequential write", args: ["--rw=write", "--bs=1m", "--iodepth=4"], unit: "MiB/s" },
]

const fioLine = (folder, { args }) => [
  ...[
    "fio",
    "--name=bench",
    `--directory=${folder}`,
    `--size=${FILE_SIZE}`,
    "--direct=1",
    "--ioengine=libaio",
  ],
  ...["--time_based", `--runtime=${SECONDS}`, "--randrepeat=0", "--output-format=json", ...args],
]

/** IOPS or MiB/s of the direction that was measured. */
function fioFigure(text, { unit }) {
  const [{ read, write }] = JSON.parse(text.slice(text.indexOf("{"))).jobs
  const side = read.io_bytes > 0 ? read : write
  return unit === "IOPS" ? side.iops : side.bw_bytes / MIB
}

function fioCases(sandbox, name, inGuest, onHost) {
  return WORKLOADS.map(workload => ({
    name: `${name}: ${workload.name}`,
    unit: workload.unit,
    better: "higher",
    ours: async () => {
      const [command, ...args] = fioLine(inGuest, workload)
      return fioFigure((await sandbox.exec(command, args, { check: true })).stdout, workload)
    },
    peer: {
      name: "fio on the host",
      measure: async () => fioFigure(await output(fioLine(onHost, workload)), workload),
    },
  }))
}

const freePort = () =>
  new Promise(resolve => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address()
      probe.close(() => resolve(port))
    })
  })

/** MiB/s that arrived. */
async function iperf(port, direction) {
  const line = [
    "iperf3",
    "--client",
    "127.0.0.1",
    "--port",
    String(port),
    "--time",
    String(SECONDS),
    "--json",
  ]
  const { end } = JSON.parse((await complete([...line, ...direction])).stdout)
  return end.sum_received.bits_per_second / 8 / MIB
}

function iperfCases(guestPort, hostPort) {
  const directions = [
    ["to the guest", []],
    ["from the guest", ["--reverse"]],
  ]
  return directions.map(([name, direction]) => ({
    name: `network: one stream ${name}`,
    unit: "MiB/s",
    better: "higher",
    ours: () => iperf(guestPort, direction),
    peer: { name: "iperf3 over loopback", measure: () => iperf(hostPort, direction) },
  }))
}

/** sockperf's median of half a round trip, µs, in `text`. */
const sockperfFigure = text => Number(/percentile 50\.000 =\s*([\d.]+)/.exec(text)?.[1])

/** Answers over loopback: within the guest it says what the guest's own network stack costs. */
function sockperfCase(sandbox) {
  const script = `sockperf server --tcp -i 127.0.0.1 -p 11111 >/dev/null 2>&1 & sleep 1
    sockperf ping-pong --tcp -i 127.0.0.1 -p 11111 -t ${SECONDS} 2>&1; kill $!`
  return {
    name: "network: half a round trip over loopback in the guest",
    unit: "µs",
    better: "lower",
    ours: async () => sockperfFigure((await sandbox.shell(script, { check: true })).stdout),
    peer: {
      name: "sockperf on the host",
      measure: async () => sockperfFigure(await output(["sh", "-c", script])),
    },
  }
}

/** A server on the host for the peer's side. */
async function hostServer(onEnd) {
  const port = await freePort()
  const child = spawn("iperf3", ["--server", "--port", String(port), "--bind", "127.0.0.1"], {
    stdio: "ignore",
  })
  onEnd(async () => {
    if (child.exitCode === null && child.kill()) await once(child, "close")
  })
  return port
}

export default {
  name: "guest",
  description: "fio, iperf3 and sockperf in a sandbox on User Mode Linux (ptrace)",
  async prepare({ folder, onEnd }) {
    const { Sandbox } = await import(`${ROOT}/packages/runtime/dist/index.js`)
    for (const name of ["shared", "host"]) mkdirSync(`${folder}/${name}`)
    const guestPort = await freePort()
    const sandbox = await Sandbox.create({
      image: `oci:${await localImage("clients")}`,
      hypervisor: "uml",
      paths: { stateDir: `${folder}/state`, imageDir: `${folder}/images` },
      storage: { kind: "disk", sizeMiB: 2048 },
      mounts: [{ source: `${folder}/shared`, target: "/shared" }],
      network: which("passt") ? "passt" : "none",
      ports: which("passt") ? [{ hostPort: guestPort, guestPort: 5201 }] : [],
    })
    onEnd(() => sandbox.destroy())
    await sandbox.shell("mkdir /disk && iperf3 --server --daemon", { check: true })
    return [
      ...fioCases(sandbox, "disk", "/disk", `${folder}/host`),
      ...fioCases(sandbox, "folder", "/shared", `${folder}/host`),
      ...(which("passt") ? iperfCases(guestPort, await hostServer(onEnd)) : []),
      sockperfCase(sandbox),
    ]
  },
}
