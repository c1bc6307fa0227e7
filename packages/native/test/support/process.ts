import { readdirSync, readFileSync } from "node:fs"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

/** Number of open fds of this process. */
export function countFds(): number {
  return readdirSync("/proc/self/fd").length
}

/** Number of mappings of a memfd called `name` in this process. */
export function countMaps(name: string): number {
  return readFileSync("/proc/self/maps", "latin1").split(`/memfd:${name} `).length - 1
}

/** Runs the garbage collector and the finalizers that it leaves for the event loop. */
export async function collectGarbage(): Promise<void> {
  setFlagsFromString("--expose-gc")
  const gc = runInNewContext("gc") as () => void
  for (let round = 0; round < 5; round++) {
    gc()
    await new Promise(resolve => setImmediate(resolve))
  }
}

/** Process ids whose command line contains `text`, zombies excluded. */
export function findProcesses(text: string): number[] {
  const found: number[] = []
  for (const name of readdirSync("/proc")) {
    if (/^[0-9]+$/.test(name) && commandLine(name).includes(text)) found.push(Number(name))
  }
  return found
}

/** The arguments of a process, with NUL between them; "" if it is gone. */
function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1")
  } catch {
    return ""
  }
}

/** The line of /proc/self/maps that holds `address`, as [start, end, permissions]. */
export function mapAt(address: bigint): [bigint, bigint, string] {
  for (const line of readFileSync("/proc/self/maps", "latin1").split("\n")) {
    const [, start, end, permissions] = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(line) ?? []
    if (start === undefined) continue
    const range = [BigInt(`0x${start}`), BigInt(`0x${end}`)] as const
    if (address >= range[0] && address < range[1]) return [...range, permissions ?? ""]
  }
  throw new Error("nothing is mapped there")
}
