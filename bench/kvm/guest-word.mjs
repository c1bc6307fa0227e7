import { spawn } from "node:child_process"

const LIMIT_MS = 120_000

/**
 * Milliseconds from a command's start to a word in its output; the command is ended then.
 * @param {string[]} commandLine
 * @param {string} word
 * @returns {Promise<number>}
 */
export function timeToWord([command, ...args], word) {
  return new Promise((resolve, reject) => {
    const since = performance.now()
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] })
    const timer = setTimeout(() => child.kill("SIGKILL"), LIMIT_MS)
    let said = ""
    let took
    const listen = chunk => {
      said += chunk
      if (took !== undefined || !said.includes(word)) return
      took = performance.now() - since
      child.kill("SIGKILL")
    }
    child.stdout.on("data", listen)
    child.stderr.on("data", listen)
    child.on("error", reject)
    child.on("close", () => {
      clearTimeout(timer)
      if (took === undefined) reject(new Error(`${command} ended without ${word}: ${said.slice(-400)}`))
      else resolve(took)
    })
  })
}
