import { AsyncLocalStorage } from "node:async_hooks"
import fs from "node:fs/promises"
import { syncBuiltinESMExports } from "node:module"
import { join } from "node:path"

/** What happens at a step: it and all later ones never come back, until the process is killed; or the disk is full. */
export type Failure = "freeze" | "full"

/** How an attempt ended. */
export interface Ended {
  readonly frozen: boolean
  /** Steps that were begun. */
  readonly steps: number
  readonly error?: unknown
}

type Call = (...args: unknown[]) => Promise<unknown>

/**
 * Counts the calls of Node's file system that change something, by the attempt that makes them, and fails from one of
 * them on. A call that writes or removes has done half of its work by then.
 *
 * Attempts run at the same time in one process, each on files of its own: when all have come to their step, killing the
 * process kills each at another one. Nothing waits for the disk, since the kernel does not die with the process.
 */
export class FailingFs {
  readonly #attempts = new AsyncLocalStorage<Attempt>()

  /** Gets in between Node's functions and their callers, those that imported them long ago too. */
  static async install(): Promise<FailingFs> {
    const failing = new FailingFs()
    const file = await fs.open("/dev/null")
    const handle = Object.getPrototypeOf(file) as Record<string, Call>
    await file.close()
    const functions = fs as unknown as Record<string, Call>
    for (const name of ["mkdir", "rename", "rm", "unlink", "open", "writeFile", "copyFile"])
      failing.#wrap(functions, name, false)
    for (const name of ["write", "writeFile", "sync", "truncate"]) failing.#wrap(handle, name, true)
    syncBuiltinESMExports()
    return failing
  }

  /** Does something and fails at step `failAt`, counted from 1, and all later ones. */
  async attempt(failure: Failure, failAt: number, work: () => Promise<unknown>): Promise<Ended> {
    const attempt = new Attempt(failure, failAt)
    const done = this.#attempts.run(attempt, work).then(
      () => ({ frozen: false, steps: attempt.steps }),
      error => ({ frozen: false, steps: attempt.steps, error }),
    )
    return Promise.race([done, attempt.frozen.then(() => ({ frozen: true, steps: attempt.steps }))])
  }

  #wrap(object: Record<string, Call>, name: string, isHandle: boolean): void {
    const original = object[name] as Call
    const attempts = this.#attempts
    object[name] = async function (this: unknown, ...args: unknown[]) {
      const call = name === "sync" ? async () => undefined : original.bind(this)
      const isReading = name === "open" && /^(undefined|r|\d+)$/.test(`${args[1]}`)
      const attempt = isReading ? undefined : attempts.getStore()
      if (attempt?.isDue(name)) {
        await half(name, call, args, isHandle)
        await attempt.fail(name)
      }
      return call(...args)
    }
  }
}

/** Keeps frozen operations, and the files they have open, from being collected as garbage. */
const IN_PROGRESS: Promise<never>[] = []

/** One operation that fails at one of its steps. */
class Attempt {
  readonly #failure: Failure
  readonly #failAt: number
  #freeze: () => void = () => undefined
  readonly frozen: Promise<void>
  steps = 0

  constructor(failure: Failure, failAt: number) {
    this.#failure = failure
    this.#failAt = failAt
    this.frozen = new Promise(resolve => {
      this.#freeze = resolve
    })
  }

  /** Counts a step. Removing needs no space. */
  isDue(name: string): boolean {
    const isSafe = this.#failure === "full" && (name === "rm" || name === "unlink")
    return ++this.steps >= this.#failAt && !isSafe
  }

  async fail(syscall: string): Promise<never> {
    if (this.#failure === "full")
      throw Object.assign(new Error(`ENOSPC: no space left, ${syscall}`), { code: "ENOSPC", syscall })
    this.#freeze()
    const never = new Promise<never>(() => undefined)
    IN_PROGRESS.push(never)
    return never
  }
}

/** Half of what a call would do. */
async function half(name: string, call: Call, args: unknown[], isHandle: boolean): Promise<void> {
  if (name === "rm") return removeOne(args[0] as string)
  if (name === "write") {
    const [buffer, offset, length, position] = args as [Buffer, number, number, number]
    await call(buffer, offset, Math.floor(length / 2), position)
  }
  if (name === "writeFile") {
    const [content, ...rest] = isHandle ? args : args.slice(1)
    const bytes = Buffer.from(content as string)
    const piece = bytes.subarray(0, Math.floor(bytes.length / 2))
    await (isHandle ? call(piece, ...rest) : call(args[0], piece, ...rest))
  }
}

async function removeOne(path: string): Promise<void> {
  const [first] = await fs.readdir(path).catch(() => [])
  if (first !== undefined) await fs.unlink(join(path, first)).catch(() => undefined)
}
