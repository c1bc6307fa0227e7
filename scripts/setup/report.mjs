/** A condition that the person at the keyboard can mend: printed as one line, never as a stack trace. */
export class SetupError extends Error {
  /**
   * @param {string} message what is wrong and what to do
   * @param {{ output?: string, exitCode?: number }} [options] output of a tool that explains it; exit code of this script
   */
  constructor(message, { output = "", exitCode = 1 } = {}) {
    super(message)
    this.output = output
    this.exitCode = exitCode
  }
}

const seconds = since => `${((performance.now() - since) / 1000).toFixed(1)} s`

/** Prints one line on stderr. */
export function note(text) {
  process.stderr.write(`${text}\n`)
}

/**
 * Runs one step of a set-up and prints one line with its time on stderr. On a terminal the name stands there
 * while the step runs.
 * @template T
 * @param {string} name what is being done
 * @param {() => T | Promise<T>} work
 * @returns {Promise<T>}
 */
export async function step(name, work) {
  const live = process.stderr.isTTY
  const since = performance.now()
  if (live) process.stderr.write(`  … ${name}`)
  try {
    const result = await work()
    process.stderr.write(`${live ? "\r\x1b[K" : ""}  ✓ ${name} (${seconds(since)})\n`)
    return result
  } catch (error) {
    process.stderr.write(`${live ? "\r\x1b[K" : ""}  ✗ ${name} (${seconds(since)})\n`)
    throw error
  }
}

const OUTPUT_LINES = 60

function describe(error) {
  const output = error.output?.trimEnd().split("\n").slice(-OUTPUT_LINES).join("\n")
  const detail = process.env.TS_VMM_DEBUG ? error.stack : `error: ${error.message}`
  return output ? `${output}\n${detail}` : detail
}

/**
 * Runs a script's body and turns its result into the exit code and its error into one line.
 * @param {() => Promise<number | undefined>} body resolves with the exit code (0 when undefined)
 */
export async function main(body) {
  try {
    process.exitCode = (await body()) ?? 0
  } catch (error) {
    note(describe(error))
    process.exitCode = error.exitCode ?? 1
  }
}
