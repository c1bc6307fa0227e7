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

/**
 * Runs a command to its end; it has to succeed.
 * @param {string[]} commandLine
 * @param {import("node:child_process").SpawnOptions} [options]
 * @returns {Promise<{ stdout: string, stderr: string, wallMs: number }>} wallMs: from its start to its end
 */
export async function complete([command, ...args], options = {}) {
  const since = process.hrtime.bigint()
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options })
  let stdout = ""
  let stderr = ""
  child.stdout.on("data", chunk => (stdout += chunk))
  child.stderr.on("data", chunk => (stderr += chunk))
  const [code] = await once(child, "close")
  const wallMs = Number(process.hrtime.bigint() - since) / 1e6
  if (code === 0) return { stdout, stderr, wallMs }
  const said = stderr.trim() || stdout.trim()
  throw new Error(`${command} ${args.slice(0, 4).join(" ")} … ended with code ${code}: ${said}`)
}

/** The stdout of a command that has to succeed. */
export const output = async (commandLine, options) => (await complete(commandLine, options)).stdout

/** Milliseconds from starting a command to its end. */
export const wallMs = async (commandLine, options) => (await complete(commandLine, options)).wallMs

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
