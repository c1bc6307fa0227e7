import { randomBytes } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs"
import { join } from "node:path"
import { SandboxError } from "../errors.js"
import { ensurePrivateDirectory } from "../paths.js"
import { isOwned, type OwnerLock, takeOwnerLock } from "./owner-lock.js"
import { isOver, readRecord, type SandboxRecord, writeRecord } from "./record.js"
import { checkName, claimName, releaseName } from "./sandbox-name.js"

/** What the sandbox folders are called; short, because sockets live in them. */
const ID_PATTERN = /^[0-9a-f]{12}$/
/** A folder that is being made, not yet locked, or that is being removed: nobody may judge it. */
const UNBORN_PATTERN = /^\.[0-9a-f]{12}$/
/** An unborn folder this old was left by an owner that died while it made it, or removed it. */
const UNBORN_MAX_AGE_MS = 60_000
/** sockaddr_un holds 108 bytes with the final NUL; our longest file in a sandbox's folder takes 20. */
const MAX_STATE_DIR_LENGTH = 107 - "/s/0123456789ab".length - 20

/**
 * Folder in a sandbox's that is there as long as it has something of a network to give back: neither it nor the sandbox's
 * folder goes before that is done (`network/cni/release.ts`).
 */
export const NETWORK_FOLDER = "cni"
const LOCK_FILE = "lock"
/**
 * The one private folder of a sandbox and the claim on its name.
 *
 * ```
 * STATE/s/<id>/          0700, everything the sandbox makes
 *             lock       locked as long as the owner lives
 *             record.json
 *             cni/       what its network's plugins hold
 * STATE/n/<name>         holds the id
 * ```
 */
export class SandboxDirectory {
  readonly id: string
  readonly name: string
  readonly path: string
  readonly #stateDir: string
  readonly #lock: OwnerLock

  private constructor(stateDir: string, id: string, name: string, lock: OwnerLock) {
    this.#stateDir = stateDir
    this.id = id
    this.name = name
    this.path = sandboxPath(stateDir, id)
    this.#lock = lock
  }

  /**
   * Makes the folder and claims the name; `name` defaults to the id.
   *
   * @throws SandboxError `invalid-argument` or `name-in-use`
   */
  static create(stateDir: string, name?: string): SandboxDirectory {
    if (name !== undefined) checkName(name)
    checkLength(stateDir)
    for (const folder of [stateDir, join(stateDir, "s"), join(stateDir, "n")]) ensurePrivateDirectory(folder)
    const id = randomBytes(6).toString("hex")
    const lock = makeLockedFolder(stateDir, id)
    const directory = new SandboxDirectory(stateDir, id, name ?? id, lock)
    try {
      claimName(stateDir, directory, other => isTakenBy(stateDir, other))
    } catch (error) {
      directory.remove()
      throw error
    }
    return directory
  }

  /** Publishes what other processes may know. */
  record(record: SandboxRecord): void {
    writeRecord(this.path, record)
  }

  /** Removes everything but the record, which `ps -a` shows until `rm`; the name stays taken. */
  keepRecordOnly(): void {
    clearFolder(this.path, ["record.json", LOCK_FILE, NETWORK_FOLDER])
    this.#lock.release()
  }

  /** Removes everything, the name too; but not what has to be given back first. */
  remove(): void {
    removeSandbox(this.#stateDir, this.id, this.name)
    this.#lock.release()
  }
}

/** A sandbox as seen from another process. */
export interface FoundSandbox {
  readonly id: string
  readonly path: string
  /** Undefined when the owner died before it wrote one. */
  readonly record: SandboxRecord | undefined
  /** True while the owner's process lives. */
  readonly alive: boolean
}

/** All sandboxes below `stateDir`, dead ones too. */
export function findSandboxes(stateDir: string): FoundSandbox[] {
  return listFolder(join(stateDir, "s"))
    .filter(id => ID_PATTERN.test(id))
    .flatMap(id => inspectSandbox(stateDir, id) ?? [])
}

/** The sandbox whose name, id, or unambiguous beginning of an id is `wanted`. @throws SandboxError `not-found` */
export function findSandbox(stateDir: string, wanted: string): FoundSandbox {
  const all = findSandboxes(stateDir)
  const exact = all.find(one => one.id === wanted || one.record?.name === wanted)
  if (exact) return exact
  const begins = wanted.length >= 2 ? all.filter(one => one.id.startsWith(wanted)) : []
  if (begins.length === 1) return begins[0] as FoundSandbox
  throw new SandboxError(
    "not-found",
    begins.length > 1 ? `"${wanted}" fits ${begins.length} sandboxes` : `no such sandbox: ${wanted}`,
  )
}

/** What {@link pruneSandboxes} found of dead sandboxes. */
export interface Pruned {
  /** Ids of those that are gone. */
  readonly removed: readonly string[]
  /** Those that have something of a network to give back first. */
  readonly waiting: readonly FoundSandbox[]
}

/** Removes what dead owners left. `finished` also removes the records of sandboxes that ended in good order. */
export function pruneSandboxes(stateDir: string, options: { finished: boolean }): Pruned {
  const dead = findSandboxes(stateDir).filter(one => !one.alive)
  const over = dead.filter(one => options.finished || !isFinished(one))
  const removed = over.filter(one => removeSandbox(stateDir, one.id, one.record?.name))
  removeUnborn(join(stateDir, "s"))
  return { removed: removed.map(one => one.id), waiting: dead.filter(one => hasNetwork(one.path)) }
}

/**
 * Removes the folder and the name of a sandbox that is not alive.
 *
 * @returns whether the folder is gone: one with something of a network to give back is only emptied
 */
export function removeSandbox(stateDir: string, id: string, name: string | undefined): boolean {
  const path = sandboxPath(stateDir, id)
  if (name !== undefined) releaseName(stateDir, name, id)
  if (hasNetwork(path)) {
    clearFolder(path, [LOCK_FILE, NETWORK_FOLDER])
    return false
  }
  removeFolder(stateDir, id)
  return true
}

/**
 * The folder loses its name first, as it got it last: whoever looks for sandboxes meanwhile would make its lock anew, and a
 * folder with something in it does not go.
 */
function removeFolder(stateDir: string, id: string): void {
  const nameless = unbornPath(stateDir, id)
  try {
    renameSync(sandboxPath(stateDir, id), nameless)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error
    return // somebody else was there before
  }
  rmSync(nameless, { recursive: true, force: true })
}

/** Whether the sandbox in `path` has something of a network to give back. */
export function hasNetwork(path: string): boolean {
  return existsSync(join(path, NETWORK_FOLDER))
}

function clearFolder(path: string, kept: readonly string[]): void {
  for (const file of listFolder(path))
    if (!kept.includes(file)) rmSync(join(path, file), { recursive: true, force: true })
}

function inspectSandbox(stateDir: string, id: string): FoundSandbox | undefined {
  const path = sandboxPath(stateDir, id)
  try {
    statSync(path)
    return { id, path, record: readRecord(path), alive: isOwned(path) }
  } catch {
    return undefined // removed meanwhile by its owner
  }
}

/** The folder gets its name only when it is locked: whoever finds it sees a living owner. */
function makeLockedFolder(stateDir: string, id: string): OwnerLock {
  const unborn = unbornPath(stateDir, id)
  mkdirSync(unborn, { mode: 0o700 })
  const lock = takeOwnerLock(unborn) as OwnerLock
  renameSync(unborn, sandboxPath(stateDir, id))
  return lock
}

function removeUnborn(folder: string): void {
  for (const name of listFolder(folder).filter(name => UNBORN_PATTERN.test(name))) {
    const path = join(folder, name)
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now())
    if (age > UNBORN_MAX_AGE_MS) rmSync(path, { recursive: true, force: true })
  }
}

function isFinished({ record }: FoundSandbox): boolean {
  return record !== undefined && isOver(record)
}

function isTakenBy(stateDir: string, id: string): boolean {
  const owner = ID_PATTERN.test(id) ? inspectSandbox(stateDir, id) : undefined
  return owner !== undefined && (owner.alive || isFinished(owner))
}

function listFolder(path: string): string[] {
  try {
    return readdirSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return []
    throw error
  }
}

function checkLength(stateDir: string): void {
  const length = Buffer.byteLength(stateDir)
  if (length <= MAX_STATE_DIR_LENGTH) return
  throw new SandboxError(
    "invalid-argument",
    `the state folder's path is ${length} bytes long, sockets in it allow ${MAX_STATE_DIR_LENGTH}: set TS_VMM_STATE_DIR to a shorter one`,
  )
}

function sandboxPath(stateDir: string, id: string): string {
  return join(stateDir, "s", id)
}

function unbornPath(stateDir: string, id: string): string {
  return join(stateDir, "s", `.${id}`)
}
