import { execFile } from "node:child_process"
import { SandboxError } from "../../errors.js"

/** Far more than these programs take, also on a machine that has much else to do. */
const TIMEOUT_MS = 20_000
const MAX_OUTPUT = 2 ** 20

/**
 * Runs `ip` or `tc` of iproute2.
 *
 * @param lines - for a batch, read from stdin
 * @returns stdout
 * @throws SandboxError `network-failed` with the program's own words
 */
export function iproute(
  program: "ip" | "tc",
  args: readonly string[],
  lines: readonly string[] = [],
): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { timeout: TIMEOUT_MS, killSignal: "SIGKILL", maxBuffer: MAX_OUTPUT } as const
    const child = execFile(program, args, options, (error, stdout, stderr) => {
      if (error) reject(failure(program, args, error, stderr))
      else resolve(stdout)
    })
    child.stdin?.on("error", () => undefined) // it ended before it had read all: its exit code tells
    child.stdin?.end(lines.map(line => `${line}\n`).join(""))
  })
}

function failure(program: string, args: readonly string[], cause: Error, stderr: string): SandboxError {
  const isMissing = (cause as NodeJS.ErrnoException).code === "ENOENT"
  const why = isMissing ? "it is not installed: install the package iproute2" : stderr.trim() || cause.message
  return new SandboxError("network-failed", `${program} ${args.join(" ")}: ${why}`, { cause })
}
