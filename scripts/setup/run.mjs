import { spawn, spawnSync } from "node:child_process"
import { constants } from "node:os"
import { SetupError } from "./report.mjs"

/** npm describes the script that it runs in these variables; tools started from here must not take them for theirs. */
const NPM_NOISE = /^npm_(package|lifecycle|config_local_prefix|config_prefix|command|execpath|node_execpath)/

/** The environment for a child process: ours without what npm adds for the running script. */
export function cleanEnv(extra = {}) {
  const kept = Object.entries(process.env).filter(([name]) => !NPM_NOISE.test(name))
  return { ...Object.fromEntries(kept), ...extra }
}

/**
 * Runs a command to its end without a shell; resolves with its stdout.
 * @param {string} command
 * @param {string[]} args
 * @param {{ cwd?: string, env?: Record<string, string>, input?: string }} [options]
 * @returns {Promise<string>}
 * @throws SetupError with the command's output when it cannot be started or its exit code is not 0
 */
export function run(command, args, { cwd, env, input } = {}) {
  return new Promise((resolve, reject) => {
    const stdio = [input === undefined ? "ignore" : "pipe", "pipe", "pipe"]
    const child = spawn(command, args, { cwd, env: cleanEnv(env), stdio })
    const out = []
    const all = []
    child.stdout.on("data", chunk => out.push(chunk) && all.push(chunk))
    child.stderr.on("data", chunk => all.push(chunk))
    child.stdin?.end(input)
    child.on("error", error => reject(new SetupError(`cannot run ${command}: ${error.message}`)))
    child.on("close", (code, signal) => {
      if (code === 0) return resolve(Buffer.concat(out).toString())
      const output = Buffer.concat(all).toString()
      reject(new SetupError(`${command} ${args[0] ?? ""} ended with ${signal ?? `code ${code}`}`, { output }))
    })
  })
}

/** Runs a short command at once; returns its stdout, or undefined when it cannot be started. */
export function query(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: "utf8", env: cleanEnv(), ...options })
  return result.error ? undefined : result.stdout
}

/**
 * Runs a command on this script's own stdin, stdout and stderr; resolves with its exit code (128+n for signal n).
 * SIGINT reaches the child through the terminal, SIGTERM and SIGHUP are passed on.
 * @param {string} command
 * @param {string[]} args
 * @param {{ cwd?: string, env?: Record<string, string> }} [options]
 * @returns {Promise<number>}
 */
export function runAttached(command, args, { cwd, env } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env: cleanEnv(env), stdio: "inherit" })
    const wait = () => undefined
    const forward = signal => child.kill(signal)
    process.on("SIGINT", wait).on("SIGTERM", forward).on("SIGHUP", forward)
    child.on("error", error => reject(new SetupError(`cannot run ${command}: ${error.message}`)))
    child.on("close", (code, signal) => {
      process.off("SIGINT", wait).off("SIGTERM", forward).off("SIGHUP", forward)
      resolve(code ?? 128 + constants.signals[signal])
    })
  })
}
