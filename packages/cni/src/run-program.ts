import { type ChildProcess, spawn } from "node:child_process"
import type { Readable } from "node:stream"

/** A program to run, and its bounds. */
export interface ProgramRun {
  readonly path: string
  readonly env: Readonly<Record<string, string>>
  readonly stdin: string
  /** After this it is killed, with what it has started. */
  readonly timeoutMs: number
  /** More on stdout ends it. */
  readonly maxOutputBytes: number
  /** See `CniOptions.launcher`. */
  readonly launcher: string | undefined
  readonly signal: AbortSignal | undefined
}

/** How it ended. */
export interface ProgramEnd {
  readonly how: "exited" | "timeout" | "output" | "aborted" | "not-started"
  readonly exitCode: number | undefined
  readonly stdout: string
  /** The last of it. */
  readonly stderr: string
}

const MAX_STDERR_BYTES = 4096
/** How long the end of what was killed is waited for: one that hangs in the kernel ends later, or never. */
const REAP_MS = 2_000

/** Runs a program to its end, or to the end of its time. Never rejects. */
export function runProgram(run: ProgramRun): Promise<ProgramEnd> {
  if (run.signal?.aborted) return Promise.resolve(ended("aborted", undefined, [], ""))
  const child = start(run)
  return new Promise(resolve => {
    const stdout: Buffer[] = []
    let length = 0
    let stderr = ""
    let how: ProgramEnd["how"] = "exited"
    let reaper: NodeJS.Timeout | undefined
    const settle = (exitCode?: number) => {
      clearTimeout(timer)
      clearTimeout(reaper)
      run.signal?.removeEventListener("abort", abort)
      for (const stream of child.stdio) stream?.destroy()
      resolve(ended(how, exitCode, stdout, stderr))
    }
    const stop = (why: ProgramEnd["how"]) => {
      if (how !== "exited") return
      how = why
      kill(child)
      reaper = setTimeout(settle, REAP_MS)
    }
    const abort = () => stop("aborted")
    const timer = setTimeout(() => stop("timeout"), run.timeoutMs)
    run.signal?.addEventListener("abort", abort, { once: true })
    child.stdout?.on("data", (chunk: Buffer) => {
      length += chunk.length
      if (length > run.maxOutputBytes) stop("output")
      else stdout.push(chunk)
    })
    child.stderr?.on("data", (chunk: Buffer) => {
      stderr = (stderr + chunk.toString("latin1")).slice(-MAX_STDERR_BYTES)
    })
    child.once("error", error => {
      how = "not-started"
      stderr = error.message
      settle()
    })
    child.once("close", code => settle(code ?? undefined))
    child.stdin?.on("error", () => undefined) // a plugin need not read what it is told
    child.stdin?.end(run.stdin)
  })
}

/** In a session, and so a process group, of its own. */
function start({ path, env, launcher }: ProgramRun): ChildProcess {
  const options = { cwd: "/", env, detached: true } as const
  if (launcher === undefined) return spawn(path, [], { ...options, stdio: ["pipe", "pipe", "pipe"] })
  const child = spawn(launcher, ["--", path], { ...options, stdio: ["pipe", "pipe", "pipe", "pipe"] })
  child.stdio[3]?.on("error", () => undefined)
  ;(child.stdio[3] as Readable | null)?.resume()
  return child
}

/** The launcher ends all that the program has started when its owner lets go; without it that is a process group. */
function kill(child: ChildProcess): void {
  if (child.stdio[3]) child.stdio[3].destroy()
  else if (child.pid !== undefined) {
    try {
      process.kill(-child.pid, "SIGKILL")
    } catch {
      // it ended meanwhile
    }
  }
}

function ended(
  how: ProgramEnd["how"],
  exitCode: number | undefined,
  stdout: readonly Buffer[],
  stderr: string,
): ProgramEnd {
  return { how, exitCode, stdout: Buffer.concat(stdout).toString(), stderr }
}
