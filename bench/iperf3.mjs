// What iperf3 says of the way to a server that stands in a guest.
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import { copyFileSync, mkdirSync } from "node:fs"
import { dirname } from "node:path"
import { setTimeout as delay } from "node:timers/promises"
import { inside } from "./namespaces.mjs"
import { output } from "./process.mjs"

export const IPERF3_PORT = "5201"
const SECONDS = "2"

export const IPERF3_WORKLOADS = [
  { name: "TCP to the guest", args: [], unit: "MB/s", figure: end => end.sum_received.bits_per_second / 8e6 },
  {
    name: "TCP from the guest",
    args: ["-R"],
    unit: "MB/s",
    figure: end => end.sum_received.bits_per_second / 8e6,
  },
  {
    name: "UDP of 64 bytes to the guest, arrived",
    args: ["-u", "-b", "0", "-l", "64"],
    unit: "packets/s",
    figure: ({ sum }) => (sum.packets - sum.lost_packets) / sum.seconds,
  },
]

/** Copies iperf3 and the libraries that it is linked with into a root. */
export function copyIperf3(root, iperf3) {
  const libraries = execFileSync("ldd", [iperf3], { encoding: "utf8" }).match(/\/\S+(?= \()/g) ?? []
  for (const file of [iperf3, ...libraries]) {
    mkdirSync(`${root}${dirname(file)}`, { recursive: true })
    copyFileSync(file, `${root}${file}`)
  }
}

/** Starts what ends with the bench. */
export function startChild([command, ...args], env, onEnd) {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...env } })
  child.said = ""
  child.stderr.on("data", chunk => (child.said += chunk))
  onEnd(async () => {
    if (child.exitCode === null && child.signalCode === null && child.kill()) await once(child, "close")
  })
  return child
}

/** What one run of the client comes to; it says in its answer what went wrong, and not by its exit code. */
async function ask(near, address, args) {
  const line = inside(
    near,
    "iperf3",
    "-c",
    address,
    "-p",
    IPERF3_PORT,
    "-J",
    "--connect-timeout",
    "2000",
    ...args,
  )
  const { error, end } = JSON.parse(await output(line))
  if (error) throw new Error(`iperf3 to ${address}: ${error}`)
  return end
}

/** One workload, from a namespace to a server. */
export const measureIperf3 = async (near, address, { args, figure }) =>
  figure(await ask(near, address, ["-t", SECONDS, ...args]))

/** Until the server in the guest, which `child` runs, answers. */
export async function untilIperf3(child, near, address, limitMs) {
  const limit = Date.now() + limitMs
  for (;;) {
    try {
      await ask(near, address, ["-n", "1K"])
      return
    } catch (error) {
      if (child.exitCode !== null) throw new Error(`the guest ended at its start: ${child.said.trim()}`)
      if (Date.now() > limit) throw error
      await delay(200)
    }
  }
}
