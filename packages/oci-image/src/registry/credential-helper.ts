import { spawn } from "node:child_process"
import { ImageError, printable } from "../errors.js"

const OUTPUT_MAX = 64 * 1024
const TIMEOUT_MS = 30_000
/** A helper is a program on the PATH and nothing else. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

/** How a helper ended. */
export interface HelperAnswer {
  /** Exit code; null when it was killed: it took too long, or said too much. */
  readonly code: number | null
  /** At most 64 KiB. It may be a secret: nothing of it belongs into a message. */
  readonly output: string
}

/**
 * Runs one of docker's credential helpers, `docker-credential-NAME`.
 *
 * @param verb - what it shall do; `input` is the server for `get` and `erase`, a JSON document for `store`
 * @throws ImageError `registry-config` for a name that is none, or a program that is not there
 * @see docker/docker-credential-helpers, "Development"
 */
export function runCredentialHelper(
  name: string,
  verb: "get" | "store" | "erase",
  input: string,
): Promise<HelperAnswer> {
  if (!NAME.test(name))
    throw new ImageError("registry-config", `${printable(name)} is no name of a credential helper`)
  const program = `docker-credential-${name}`
  return new Promise((resolve, reject) => {
    const child = spawn(program, [verb], {
      stdio: ["pipe", "pipe", "ignore"],
      timeout: TIMEOUT_MS,
      killSignal: "SIGKILL",
    })
    const chunks: Buffer[] = []
    let size = 0
    child.stdout.on("data", (chunk: Buffer) => {
      size += chunk.length
      if (size > OUTPUT_MAX) child.kill("SIGKILL")
      else chunks.push(chunk)
    })
    child.on("error", cause => reject(notRun(program, cause)))
    child.on("close", code => resolve({ code, output: Buffer.concat(chunks).toString() }))
    child.stdin.on("error", () => undefined) // one that does not read is told by its exit code
    child.stdin.end(input)
  })
}

function notRun(program: string, cause: Error): ImageError {
  return new ImageError(
    "registry-config",
    `cannot run ${program}: is it on the PATH?`,
    { program },
    { cause },
  )
}
