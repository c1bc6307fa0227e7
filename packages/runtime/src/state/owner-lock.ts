import { closeSync, constants, openSync } from "node:fs"
import { join } from "node:path"
import { lockFile } from "@ts-vmm/native"

/** File in a sandbox's folder that its owner keeps locked. */
const LOCK_FILE = "lock"

/**
 * The kernel drops the lock when its owner ends in whatever way, so it tells a live sandbox from a left
 * one without process ids, which are used again (catalogue R11).
 */
export interface OwnerLock {
  /** Safe to call more than once. */
  release(): void
}

/** Takes the lock of the sandbox in `directory`; undefined when somebody holds it. */
export function takeOwnerLock(directory: string): OwnerLock | undefined {
  const fd = openLockFile(directory)
  if (!lockFile(fd, "exclusive")) {
    closeSync(fd)
    return undefined
  }
  let held = true
  return {
    release() {
      if (held) closeSync(fd)
      held = false
    },
  }
}

/** Whether the owner of the sandbox in `directory` is alive. Two who ask at once do not disturb each other. */
export function isOwned(directory: string): boolean {
  const fd = openLockFile(directory)
  try {
    return !lockFile(fd, "shared")
  } finally {
    closeSync(fd)
  }
}

function openLockFile(directory: string): number {
  return openSync(
    join(directory, LOCK_FILE),
    constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW,
    0o600,
  )
}
