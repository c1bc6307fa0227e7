import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { existsSync } from "node:fs"
import { availableParallelism } from "node:os"
import { setTimeout as delay } from "node:timers/promises"

const START_LIMIT_MS = 10_000

/** CPUs for a server and its client: on one CPU together, or on one each. */
export const PLACEMENTS =
  availableParallelism() >= 2
    ? [
        { name: "two CPUs", server: 0, client: 1 },
        { name: "one CPU", server: 0, client: 0 },
      ]
    : [{ name: "one CPU", server: 0, client: 0 }]

/** A command line that keeps a program with all its threads on one CPU. */
export const pinned = (cpu, command, ...args) => ["taskset", "-c", String(cpu), command, ...args]

/** The path of a program, or undefined when it is not installed. */
export function which(name) {
  const paths = `${process.env.PATH}:/usr/sbin:/sbin`.split(":")
  return paths.map(folder => `${folder}/${name}`).find(existsSync)
}

/** Runs a command to its end; resolves with stdout, rejects with its stderr unless the exit code is 0. */
export async function output([command, ...args], options = {}) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options })
  let out = ""
  let err = ""
  child.stdout.on("data", chunk => (out += chunk))
  child.stderr.on("data", chunk => (err += chunk))
  const [code] = await once(child, "close")
  if (code !== 0)
    throw new Error(
      `${command} ${args.slice(0, 4).join(" ")} … ended with code ${code}: ${err.trim() || out.trim()}`,
    )
  return out
}

/** Milliseconds from starting a command to its end; it has to succeed. */
export async function wallMs(commandLine, options) {
  const since = process.hrtime.bigint()
  await output(commandLine, options)
  return Number(process.hrtime.bigint() - since) / 1e6
}

/**
 * Starts a server and waits until its socket exists.
 * @param {string[]} commandLine
 * @param {string} socketPath
 * @param {(work: () => unknown) => void} onEnd its end is registered here
 */
export async function startServer([command, ...args], socketPath, onEnd) {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] })
  let err = ""
  child.stderr.on("data", chunk => (err += chunk))
  onEnd(async () => {
    if (child.exitCode === null && child.signalCode === null && child.kill()) await once(child, "close")
  })
  const limit = Date.now() + START_LIMIT_MS
  while (!existsSync(socketPath)) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`${command} ended at its start: ${err.trim()}`)
    if (Date.now() > limit) throw new Error(`${command} made no socket within ${START_LIMIT_MS / 1000} s`)
    await delay(20)
  }
  return child
}

/** The version line of a program. */
export function versionOf(program) {
  return spawnSync(program, ["--version"], { encoding: "utf8" }).stdout?.split("\n")[0] ?? ""
}
