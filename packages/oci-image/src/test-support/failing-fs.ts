import fs from "node:fs/promises"
import { syncBuiltinESMExports } from "node:module"
import { join } from "node:path"

/** What happens at a step: the process dies, or the disk is full from there on. */
export type Failure = "kill" | "full"

type Call = (...args: unknown[]) => Promise<unknown>

/**
 * Counts the calls of Node's file system that change something, in this whole process, and fails at one of them. A call
 * that writes or removes has done half of its work by then.
 */
export class FailingFs {
  #steps = 0
  #failAt = Number.POSITIVE_INFINITY
  #failure: Failure = "kill"

  /** Gets in between Node's functions and their callers, those that imported them long ago too. */
  static async install(): Promise<FailingFs> {
    const failing = new FailingFs()
    const file = await fs.open("/dev/null")
    const handle = Object.getPrototypeOf(file) as Record<string, Call>
    await file.close()
    const functions = fs as unknown as Record<string, Call>
    for (const name of ["mkdir", "rename", "rm", "open", "writeFile"]) failing.#wrap(functions, name, false)
    for (const name of ["write", "writeFile", "sync"]) failing.#wrap(handle, name, true)
    syncBuiltinESMExports()
    return failing
  }

  /** Fails at step `failAt` from now, counted from 1. */
  arm(failAt: number, failure: Failure): void {
    this.#steps = 0
    this.#failAt = failAt
    this.#failure = failure
  }

  /** Fails no more. @returns how many steps there were */
  disarm(): number {
    this.#failAt = Number.POSITIVE_INFINITY
    return this.#steps
  }

  #wrap(object: Record<string, Call>, name: string, isHandle: boolean): void {
    const original = object[name] as Call
    const failing = this
    object[name] = async function (this: unknown, ...args: unknown[]) {
      const changes = !(
        name === "open" &&
        (args[1] === undefined || typeof args[1] === "number" || args[1] === "r")
      )
      if (changes && failing.#isDue(name)) {
        await half(name, original.bind(this), args, isHandle)
        failing.#fail(name)
      }
      return original.apply(this, args)
    }
  }

  #isDue(name: string): boolean {
    this.#steps++
    if (this.#failure === "kill") return this.#steps === this.#failAt
    // Removing needs no space.
    return this.#steps >= this.#failAt && name !== "rm"
  }

  #fail(syscall: string): never {
    if (this.#failure === "kill") process.kill(process.pid, "SIGKILL")
    throw Object.assign(new Error(`ENOSPC: no space left on device, ${syscall}`), { code: "ENOSPC", syscall })
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
