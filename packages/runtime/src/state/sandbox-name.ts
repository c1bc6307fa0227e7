import {
  closeSync,
  constants,
  fstatSync,
  linkSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { lockFile } from "@ts-vmm/native"
import { SandboxError } from "../errors.js"

/** Names as Docker allows them; also keeps a name from ever being a path. */
const NAME_PATTERN = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$/
/** In a sandbox's folder while its name is claimed. */
const CLAIM_FILE = "name"

/** @throws SandboxError `invalid-argument` */
export function checkName(name: string): void {
  if (NAME_PATTERN.test(name)) return
  throw new SandboxError(
    "invalid-argument",
    `invalid name "${name}": use up to 64 of a-z A-Z 0-9 _ . -, beginning with a letter or digit`,
  )
}

/**
 * Makes a name a sandbox's own, also one that a dead owner had.
 *
 * @param sandbox - `path`: its folder
 * @param isTaken - whether a name is still that of the sandbox with this id
 * @throws SandboxError `name-in-use`
 */
export function claimName(
  stateDir: string,
  { id, name, path }: { readonly id: string; readonly name: string; readonly path: string },
  isTaken: (id: string) => boolean,
): void {
  const place = namePath(stateDir, name)
  // Whoever finds the claim finds the id in it: one that is still empty would look like that of a dead owner.
  const claim = join(path, CLAIM_FILE)
  writeFileSync(claim, id, { mode: 0o600 })
  try {
    if (link(claim, place) || (freeName(place, isTaken) && link(claim, place))) return
  } finally {
    rmSync(claim, { force: true })
  }
  throw new SandboxError(
    "name-in-use",
    `the name "${name}" is in use by sandbox ${read(place)}; remove it (rm) or choose another name`,
  )
}

/** Gives up a name, if it is that of the sandbox `id`. */
export function releaseName(stateDir: string, name: string, id: string): void {
  if (NAME_PATTERN.test(name)) removeClaim(namePath(stateDir, name), holder => holder === id)
}

/** @returns false when there is such a file */
function link(from: string, to: string): boolean {
  try {
    linkSync(from, to)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false
    throw error
  }
}

/** From a dead owner. A living one's claim is not even locked, so that it is never in the way of its removal. */
function freeName(place: string, isTaken: (id: string) => boolean): boolean {
  const isFree = (id: string) => !isTaken(id)
  return isFree(read(place)) && removeClaim(place, isFree)
}

/**
 * Makes a name free. Of two who find a dead owner's the second would remove the first one's new claim: each looks again,
 * with the claim locked, whether it is the same still.
 *
 * @param mayGo - whether it may be taken from the sandbox with this id
 * @returns false when it is somebody's
 */
function removeClaim(place: string, mayGo: (id: string) => boolean): boolean {
  const fd = openClaim(place)
  if (fd === undefined) return true
  try {
    if (!lockFile(fd, "exclusive") || !mayGo(readFileSync(fd, "utf8"))) return false
    if (statSync(place, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino) rmSync(place)
    return true
  } finally {
    closeSync(fd)
  }
}

function openClaim(place: string): number | undefined {
  try {
    return openSync(place, constants.O_RDWR | constants.O_NOFOLLOW)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined
    throw error
  }
}

function read(place: string): string {
  try {
    return readFileSync(place, "utf8").slice(0, 64)
  } catch {
    return ""
  }
}

function namePath(stateDir: string, name: string): string {
  return join(stateDir, "n", name)
}
