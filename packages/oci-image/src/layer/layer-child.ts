import { type ChildProcess, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { createRequire } from "node:module"
import { basename } from "node:path"
import type { Readable, Writable } from "node:stream"
import { fileURLToPath } from "node:url"
import { ImageError, printable } from "../errors.js"
import { type LayerResult, parseResult, RESULT_MAX } from "./layer-result.js"
import { type LayerOrder, type LayerPatience, MEMORY_FILE, RESULT_FD } from "./layer-task.js"

const STDERR_MAX = 2048
const NEWLINE = 0x0a
/** Young objects of the reader die at once: more room for them only costs memory. */
const SEMI_SPACE_MIB = 4
/**
 * How much V8 runs of a function before it optimizes that (four times its default): zlib and hashes do most of the work,
 * and until there is some for the optimized code, such a process has ended.
 */
const INTERRUPT_BUDGET = 500_000
const PERMISSION = process.allowedNodeEnvironmentFlags.has("--permission")
  ? "--permission"
  : "--experimental-permission"

/** How a {@link LayerChild} is started. */
export interface LayerChildOptions {
  /** Descriptors that its orders work with. */
  readonly files: readonly [number, number]
  /** MiB of JavaScript heap. */
  readonly heap: number
  readonly signal: AbortSignal | undefined
  /** The script to run; default is this package's. */
  readonly entry?: string | undefined
}

interface Pipes {
  readonly stdin: Writable | null | undefined
  readonly stderr: Readable | null | undefined
  readonly result: Readable | undefined
}

/**
 * One process that reads layers, seen from outside: `begin`, `write` until the layer is complete, then `finish`, or
 * `answer` when another layer follows. It has no environment, and by Node's permission model no files but its own code,
 * no children and no workers; what it needs it inherits open. It is killed when it makes others wait for too long, and
 * at disposal.
 */
export class LayerChild implements AsyncDisposable {
  readonly #process: ChildProcess
  readonly #signal: AbortSignal | undefined
  readonly #closed: Promise<void>
  readonly #abort = () => this.#kill()
  #isClosed = false
  #patience: LayerPatience = { stall: 0, total: 0 }
  #waited = 0
  #result: Buffer = Buffer.alloc(0)
  /** Called when a line of the result is there. */
  #answered: () => void = () => undefined
  #stderr = ""
  #failure: ImageError | undefined

  /** @throws ImageError `layer-process` when it cannot be started; the signal's reason */
  constructor(options: LayerChildOptions) {
    this.#signal = options.signal
    options.signal?.throwIfAborted()
    this.#process = start(options)
    this.#closed = new Promise(resolve => {
      this.#process.once("close", () => resolve())
      this.#process.once("error", error => {
        this.#failure ??= cannotStart(error)
        resolve()
      })
    })
    this.#closed.then(() => {
      this.#isClosed = true
    })
    this.#listen()
    options.signal?.addEventListener("abort", this.#abort)
  }

  /** The process's ends of pipes; there are none when it could not be started. */
  get #pipes(): Pipes {
    const { stdin, stderr } = this.#process
    const stdio = this.#process.stdio as unknown[] | undefined
    return { stdin, stderr, result: stdio?.[RESULT_FD] as Readable | undefined }
  }

  #listen(): void {
    const { stdin, stderr, result } = this.#pipes
    // A process that ended early does not take the rest; its result says why.
    for (const pipe of [stdin, stderr, result]) pipe?.on("error", () => undefined)
    stderr?.on("data", (bytes: Buffer) => {
      if (this.#stderr.length < STDERR_MAX) this.#stderr += bytes.toString("latin1", 0, STDERR_MAX)
    })
    result?.on("data", (bytes: Buffer) => {
      if (this.#result.length > RESULT_MAX) this.#fail("gave a result that is too long")
      else this.#result = Buffer.concat([this.#result, bytes])
      if (bytes.includes(NEWLINE)) this.#answered()
    })
  }

  /**
   * Says which layer comes next.
   *
   * @param patience - how long the process may make others wait until it is done with it
   * @throws ImageError `layer-process` when it takes too long; the signal's reason
   */
  async begin(order: LayerOrder, patience: LayerPatience): Promise<void> {
    this.#patience = patience
    this.#waited = 0
    await this.write(Buffer.from(`${JSON.stringify(order)}\n`))
  }

  /**
   * Hands over a piece of the compressed layer.
   *
   * @returns false when the process does not want more
   * @throws ImageError `layer-process` when it takes too long; the signal's reason
   */
  async write(bytes: Buffer): Promise<boolean> {
    const { stdin } = this.#pipes
    if (this.#isClosed || !stdin?.writable) return false
    // Called back with an error, too, when the process is gone.
    await this.#wait(new Promise(resolve => stdin.write(bytes, () => resolve())))
    return stdin.writable && !this.#isClosed
  }

  /**
   * Waits for what the process makes of a layer, when it may get another one.
   *
   * @throws ImageError `layer-process` when it dies, takes too long, or talks nonsense; the signal's reason
   */
  async answer(): Promise<LayerResult> {
    const answered = new Promise<void>(resolve => {
      this.#answered = resolve
    })
    if (!this.#result.includes(NEWLINE)) await this.#wait(Promise.race([answered, this.#closed]))
    if (this.#isClosed || this.#failure) return this.finish()
    const result = this.#result
    this.#result = Buffer.alloc(0)
    return parseResult(result)
  }

  /**
   * Says that no other layer comes, and waits for what the process makes of the last one.
   *
   * @throws ImageError `layer-process` when it dies, takes too long, or talks nonsense; the signal's reason
   */
  async finish(): Promise<LayerResult> {
    this.#pipes.stdin?.end()
    await this.#wait(this.#closed)
    if (this.#failure) throw this.#failure
    const { exitCode, signalCode } = this.#process
    if (exitCode !== 0) throw this.#died(exitCode, signalCode)
    return parseResult(this.#result)
  }

  #died(exitCode: number | null, signal: NodeJS.Signals | null): ImageError {
    const how = /heap out of memory|allocation failed/i.test(this.#stderr)
      ? "ran out of memory"
      : signal
        ? `was killed by ${signal}`
        : `ended with code ${exitCode}`
    const said = printable(this.#stderr.trim())
    return processError(`process that reads layers ${how}`, { exitCode: exitCode ?? -1, stderr: said })
  }

  /** Waits, but not longer than the process may take. */
  async #wait(event: Promise<void>): Promise<void> {
    const since = performance.now()
    const { stall, total } = this.#patience
    const timer = setTimeout(
      () => this.#fail("takes too long"),
      Math.max(0, Math.min(stall, total - this.#waited)),
    )
    await event
    clearTimeout(timer)
    this.#waited += performance.now() - since
    this.#signal?.throwIfAborted()
  }

  #fail(why: string): void {
    this.#failure ??= processError(`process that reads layers ${why}`)
    this.#kill()
  }

  /** Whoever else may hold the pipes' other ends does not keep this one from closing. */
  #kill(): void {
    this.#process.kill("SIGKILL")
    for (const pipe of Object.values(this.#pipes)) pipe?.destroy()
  }

  /** Ends the process, if it has not, and waits until it is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#signal?.removeEventListener("abort", this.#abort)
    if (!this.#isClosed) this.#kill()
    await this.#closed
  }
}

function start(options: LayerChildOptions): ChildProcess {
  const { files, heap, entry = layerProcessEntry() } = options
  if (!/^node/.test(basename(process.execPath))) {
    throw processError("layers are read in a process of their own, which needs Node", {
      execPath: process.execPath,
    })
  }
  const flags = [
    PERMISSION,
    `--allow-fs-read=${entry}`,
    `--allow-fs-read=${MEMORY_FILE}`,
    `--max-old-space-size=${heap}`,
    `--max-semi-space-size=${SEMI_SPACE_MIB}`,
    `--interrupt-budget=${INTERRUPT_BUDGET}`,
    "--no-warnings",
  ]
  try {
    return spawn(process.execPath, [...flags, entry], {
      cwd: "/",
      env: {},
      // Not in the terminal's group: the key that interrupts reaches it through its caller only.
      detached: true,
      stdio: ["pipe", "ignore", "pipe", ...files, "pipe"],
    })
  } catch (error) {
    throw cannotStart(error as Error)
  }
}

/** The built script: beside this code where that was built too, or bundled with it; else where the package is. */
function layerProcessEntry(): string {
  const beside = fileURLToPath(new URL("layer-process.cjs", import.meta.url))
  if (existsSync(beside)) return beside
  try {
    return createRequire(import.meta.url).resolve("@ts-vmm/oci-image/layer-process")
  } catch {
    throw processError("the script that reads layers is missing: the package is not built")
  }
}

function cannotStart(cause: Error): ImageError {
  return new ImageError(
    "layer-process",
    `cannot start the process that reads layers: ${cause.message}`,
    {},
    { cause },
  )
}

function processError(message: string, fields: Record<string, number | string> = {}): ImageError {
  return new ImageError("layer-process", message, fields)
}
