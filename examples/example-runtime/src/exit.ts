import { escapeControls } from "@ts-vmm/runtime"

/** Exit codes as users of docker know them. */
export const EXIT = {
  /** The runtime itself failed, or was used wrongly. */
  runtime: 125,
  /** The program cannot be executed. */
  notExecutable: 126,
  /** The program was not found. */
  notFound: 127,
} as const

const PROGRAM = "example-runtime"

/** Ends the program with a line on stderr; thrown anywhere below `main`. */
export class CliError extends Error {
  override readonly name = "CliError"
  readonly exitCode: number

  constructor(message: string, exitCode: number = EXIT.runtime) {
    super(message)
    this.exitCode = exitCode
  }
}

/** Says what went wrong in one line and returns the exit code. A stack trace is only for our own faults. */
export function reportError(error: unknown): number {
  if (error instanceof CliError || isCoded(error)) {
    console.error(`${PROGRAM}: ${oneLine(error.message)}`)
    return exitCodeOf(error)
  }
  console.error(`${PROGRAM}: this is a bug, please report it:`, error)
  return EXIT.runtime
}

/** Messages name files of images and guests, which must not steer the terminal. */
function oneLine(message: string): string {
  return escapeControls(message.replaceAll(/[\n\t]/g, " "))
}

/** Errors of our packages and of Node's system calls carry a `code`: they describe the world, not a bug. */
function isCoded(error: unknown): error is Error & { code: string } {
  return error instanceof Error && typeof (error as { code?: unknown }).code === "string"
}

/** By code and not by class: the runtime's classes would have to be loaded to name them, also for `--help`. */
function exitCodeOf(error: Error & { code?: string }): number {
  if (error instanceof CliError) return error.exitCode
  if (error.code === "command-not-found") return EXIT.notFound
  if (error.code === "command-not-executable") return EXIT.notExecutable
  return EXIT.runtime
}
