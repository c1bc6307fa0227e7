import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import type { Writable } from "node:stream"
import { setTimeout as sleep } from "node:timers/promises"
import type { ScanCommand } from "./scan-command.js"

interface Ending {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** How a scanner ended. */
export interface ScanExit extends Ending {
  /** What it wrote to its standard error, as far as it is kept. */
  readonly stderr: Buffer
  /** Whether it took longer than it may. */
  readonly timedOut: boolean
  /** Why the image could not be read for it. */
  readonly broken: unknown
}

/** Bytes of standard error that are kept; the rest is read and thrown away. */
const STDERR_MAX = 16 * 1024
/** For what a process wrote before it ended, should another one keep the pipe. */
const STDERR_GRACE_MS = 1000
/** For a process to be gone that was killed. */
const KILL_GRACE_MS = 10_000

/**
 * Runs a scanner with a tar stream as its standard input: in a process group of its own, with nothing of this process's
 * environment. When this returns, the group is gone.
 *
 * @param env - besides the command's own
 * @throws the system's error when it cannot be started; the signal's reason
 */
export async function runScanner(
  { command, args, timeoutMs, env: own }: ScanCommand,
  root: AsyncIterable<Buffer>,
  env: Readonly<Record<string, string>>,
  signal?: AbortSignal,
): Promise<ScanExit> {
  signal?.throwIfAborted()
  const child = spawn(command, args, {
    detached: true,
    cwd: "/",
    env: { ...own, ...env },
    stdio: ["pipe", "ignore", "pipe"],
  })
  await once(child, "spawn")
  const running = new RunningScanner(child)
  const stop = () => running.stop()
  signal?.addEventListener("abort", stop, { once: true })
  if (signal?.aborted) stop()
  try {
    const exit = await running.finish(root, timeoutMs)
    signal?.throwIfAborted()
    return exit
  } finally {
    signal?.removeEventListener("abort", stop)
  }
}

class RunningScanner {
  readonly #child: ChildProcess
  readonly #pid: number
  readonly #stderr: Buffer[] = []
  #stderrSize = 0
  readonly #ended: Promise<Ending>
  #end: (how: Ending) => void = () => undefined
  #broken: unknown
  #timedOut = false
  #isOver = false

  constructor(child: ChildProcess) {
    this.#child = child
    this.#pid = child.pid as number
    this.#ended = new Promise(resolve => {
      this.#end = resolve
    })
    child.once("exit", (code, signal) => this.#end({ code, signal }))
    child.stderr?.on("data", (chunk: Buffer) => this.#keep(chunk))
    // They end with the process, and how does not matter.
    child.stderr?.on("error", () => undefined)
    child.stdin?.on("error", () => undefined)
  }

  /** Ends it at once; one that cannot be killed, because it became somebody else's, is left alone after a while. */
  stop(): void {
    this.#kill()
    setTimeout(this.#end, KILL_GRACE_MS, { code: null, signal: "SIGKILL" }).unref()
  }

  /** Kills the whole group, once after the end too: then its number is still nobody else's. */
  #kill(): void {
    if (this.#isOver) return
    try {
      process.kill(-this.#pid, "SIGKILL")
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code !== "ESRCH" && code !== "EPERM") throw error
    }
  }

  async finish(root: AsyncIterable<Buffer>, timeoutMs: number): Promise<ScanExit> {
    const timer = setTimeout(() => {
      this.#timedOut = true
      this.stop()
    }, timeoutMs)
    try {
      const fed = this.#feed(root)
      const { code, signal } = await this.#ended
      this.#kill()
      this.#isOver = true
      this.#child.stdin?.destroy()
      await fed
      await this.#drainStderr()
      const stderr = Buffer.concat(this.#stderr)
      return { code, signal, stderr, timedOut: this.#timedOut, broken: this.#broken }
    } finally {
      clearTimeout(timer)
    }
  }

  /** A scanner need not read to the end; but what it could not read to the end it must not judge. */
  async #feed(root: AsyncIterable<Buffer>): Promise<void> {
    const stdin = this.#child.stdin as Writable
    try {
      for await (const chunk of root) {
        if (stdin.destroyed) break
        if (!stdin.write(chunk)) await room(stdin)
      }
      stdin.end()
    } catch (error) {
      this.#broken = error
      this.stop()
    }
  }

  #keep(chunk: Buffer): void {
    const kept = chunk.subarray(0, STDERR_MAX - this.#stderrSize)
    this.#stderrSize += kept.length
    if (kept.length > 0) this.#stderr.push(kept)
  }

  async #drainStderr(): Promise<void> {
    const { stderr } = this.#child
    if (!stderr || stderr.closed) return
    const closed = once(stderr, "close").catch(() => undefined)
    await Promise.race([closed, sleep(STDERR_GRACE_MS, undefined, { ref: false })])
    stderr.destroy()
  }
}

/** Waits until a pipe takes more, or nothing any more. */
function room(pipe: Writable): Promise<void> {
  return new Promise(resolve => {
    const done = () => {
      pipe.off("drain", done)
      pipe.off("close", done)
      resolve()
    }
    pipe.on("drain", done)
    pipe.on("close", done)
    // One that is closed says so no more.
    if (pipe.closed) done()
  })
}
