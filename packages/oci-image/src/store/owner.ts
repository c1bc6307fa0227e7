import { randomBytes } from "node:crypto"
import { readFileSync, readlinkSync } from "node:fs"
import { readdir, rm, stat } from "node:fs/promises"
import { join } from "node:path"

/** A file of another process id namespace cannot be asked about; after this long its owner counts as dead. */
const FOREIGN_LIFETIME_MS = 24 * 60 * 60 * 1000
const STAT_STARTTIME = 22
/** What reading `/proc/PID` says of a process that is not there, or ends meanwhile. */
const GONE: ReadonlySet<string | undefined> = new Set(["ENOENT", "ESRCH"])
/** Names of owned files end in the owner's tag and a random number. */
const OWNED_NAME = /(\d+)-(\d+)-(\d+)-[0-9a-f]{16}$/

/**
 * A new file name that says which running process it belongs to, beyond reuse of process ids:
 * `PID-STARTTIME-NAMESPACE-RANDOM`.
 */
export function ownedName(): string {
  return `${process.pid}-${startTime(process.pid) ?? "0"}-${pidNamespace()}-${randomBytes(8).toString("hex")}`
}

/**
 * Whether the process in the name of a file is still there.
 *
 * @param name - a file name that ends in a name of {@link ownedName}
 * @param modifiedMs - when the file was last written, used where the process cannot be seen from here
 */
export function isOwnerAlive(name: string, modifiedMs: number): boolean {
  const [, pid, start, namespace] = OWNED_NAME.exec(name) ?? []
  if (pid === undefined) return false
  if (namespace !== pidNamespace()) return Date.now() - modifiedMs < FOREIGN_LIFETIME_MS
  const found = startTime(Number(pid))
  // Where it cannot be told nothing is taken from anybody.
  return found === undefined || found === start
}

/**
 * Removes files and folders whose names say that they belong to a process which is dead.
 *
 * @param prefix - what the names begin with that are looked at
 */
export async function removeStale(folder: string, prefix = ""): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.startsWith(prefix)) continue
    const path = join(folder, name)
    const found = await stat(path).catch(() => undefined)
    if (found && !isOwnerAlive(name, found.mtimeMs)) await rm(path, { recursive: true, force: true })
  }
}

/**
 * Start time in clock ticks since boot, "0" without such a process, or undefined when it cannot be found out. One that has
 * ended but was not waited for by its parent is none: where nobody waits, in a container say, it stays for ever.
 *
 * @see proc(5), /proc/pid/stat fields 3 and 22
 */
function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1")
    // Field 2 is the program's name in parentheses and may hold anything.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    const hasEnded = /[ZXx]/.test(fields[0] ?? "")
    return hasEnded ? "0" : (fields[STAT_STARTTIME - 3] ?? "0")
  } catch (error) {
    return GONE.has((error as NodeJS.ErrnoException).code) ? "0" : undefined
  }
}

function pidNamespace(): string {
  return /\d+/.exec(readlinkSync("/proc/self/ns/pid"))?.[0] ?? "0"
}
