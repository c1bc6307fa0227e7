import { createInterface } from "node:readline/promises"
import { Writable } from "node:stream"
import { CliError } from "./exit.js"

/** Asks before something is lost. Without a terminal nobody can answer: then `--force` has to be given. */
export async function confirm(warning: string): Promise<boolean> {
  if (!process.stdin.isTTY) throw new CliError(`${warning} Use --force to say that this is meant.`)
  const answer = await ask(`${warning} Are you sure? [y/N] `)
  return /^y(es)?$/i.test(answer.trim())
}

/** Asks on the terminal; the question goes to stderr. */
export async function ask(question: string): Promise<string> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr, terminal: true })
  try {
    return await terminal.question(question)
  } finally {
    terminal.close()
  }
}

/** {@link ask} for what nobody may read over a shoulder. */
export async function askSecretly(question: string): Promise<string> {
  process.stderr.write(question)
  // readline echoes by writing to its output.
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() })
  const terminal = createInterface({ input: process.stdin, output: nowhere, terminal: true })
  try {
    return await terminal.question("")
  } finally {
    terminal.close()
    process.stderr.write("\n")
  }
}

const STDIN_MAX = 64 * 1024

/** A short text on stdin, without the line feed at its end. */
export async function readStdin(): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > STDIN_MAX) throw new CliError(`stdin has more than ${STDIN_MAX} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
    .toString("utf8")
    .replace(/\r?\n$/, "")
}
