import { randomBytes } from "node:crypto"
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { lockFile } from "@ts-vmm/native"
import { SandboxError } from "../errors.js"
import { ensurePrivateDirectory } from "../paths.js"
import { isOwned, type OwnerLock, takeOwnerLock } from "./owner-lock.js"
import { readRecord, type SandboxRecord, writeRecord } from "./record.js"

/** Names as Docker allows them; also keeps a name from ever being a path. */
const NAME_PATTERN = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$/
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
/** In a sandbox's folder while its name is claimed. */
const CLAIM_FILE = "name"

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
    if (name !== undefined && !NAME_PATTERN.test(name)) {
      throw new SandboxError(
        "invalid-argument",
        `invalid name "${name}": use up to 64 of a-z A-Z 0-9 _ . -, beginning with a letter or digit`,
      )
    }
    checkLength(stateDir)
    for (const folder of [stateDir, join(stateDir, "s"), join(stateDir, "n")]) ensurePrivateDirectory(folder)
    const id = randomBytes(6).toString("hex")
    const lock = makeLockedFolder(stateDir, id)
    const directory = new SandboxDirectory(stateDir, id, name ?? id, lock)
    try {
      directory.#claimName()
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

  #claimName(): void {
    const path = namePath(this.#stateDir, this.name)
    // Whoever finds the claim finds the id in it: one that is still empty would look like that of a dead owner.
    const claim = join(this.path, CLAIM_FILE)
    writeFileSync(claim, this.id, { mode: 0o600 })
    try {
      for (let attempt = 0; attempt < 2; attempt++) {
        try {
          linkSync(claim, path)
          return
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error
          if (!this.#freeName()) break
        }
      }
    } finally {
      rmSync(claim, { force: true })
    }
    const other = readName(this.#stateDir, this.name)
    throw new SandboxError(
      "name-in-use",
      `the name "${this.name}" is in use by sandbox ${other}; remove it (rm) or choose another name`,
    )
  }

  /** From a dead owner. A living one's claim is not even locked, so that it is never in the way of its removal. */
  #freeName(): boolean {
    const isFree = (id: string) => !isTakenBy(this.#stateDir, id)
    return isFree(readName(this.#stateDir, this.name)) && removeClaim(this.#stateDir, this.name, isFree)
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
  if (name !== undefined && NAME_PATTERN.test(name)) removeClaim(stateDir, name, holder => holder === id)
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

function isFinished(one: FoundSandbox): boolean {
  return one.record?.status === "stopped" || one.record?.status === "failed"
}

/**
 * Makes a name free. Of two who find a dead owner's the second would remove the first one's new claim: each looks again,
 * with the claim locked, whether it is the same still.
 *
 * @param mayGo - whether it may be taken from the sandbox with this id
 * @returns false when it is somebody's
 */
function removeClaim(stateDir: string, name: string, mayGo: (id: string) => boolean): boolean {
  const path = namePath(stateDir, name)
  const fd = openClaim(path)
  if (fd === undefined) return true
  try {
    if (!lockFile(fd, "exclusive") || !mayGo(readFileSync(fd, "utf8"))) return false
    if (statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino) rmSync(path)
    return true
  } finally {
    closeSync(fd)
  }
}

function openClaim(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDWR | constants.O_NOFOLLOW)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined
    throw error
  }
}

function isTakenBy(stateDir: string, id: string): boolean {
  const owner = ID_PATTERN.test(id) ? inspectSandbox(stateDir, id) : undefined
  return owner !== undefined && (owner.alive || isFinished(owner))
}

function readName(stateDir: string, name: string): string {
  try {
    return readFileSync(namePath(stateDir, name), "utf8").slice(0, 64)
  } catch {
    return ""
  }
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

function namePath(stateDir: string, name: string): string {
  return join(stateDir, "n", name)
}
