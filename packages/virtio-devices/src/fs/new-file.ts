import * as abi from "./host-abi.js"
import { type HostFiles, procName } from "./host-files.js"
import type { Inode } from "./inode-table.js"
import type { Owners } from "./owners.js"

const { S_ISUID, S_ISGID } = abi
const SET_ID_BITS = S_ISUID | S_ISGID
const SET_GROUP_AND_RUN = S_ISGID | 0o010

/** Whom a new file belongs to, as the guest says it. */
export interface Creator {
  readonly uid: number
  readonly gid: number
  /** The mask of whoever makes it, where the guest did not apply that already. */
  readonly umask?: number
}

/**
 * Gives a file that was just made to its creator, with the mode that was asked for: what the host's kernel would have
 * done had the creator been a user of the host.
 *
 * @param mode - undefined for symbolic links, which have none
 * @returns 0 or a negative errno
 */
export function settle(
  host: HostFiles,
  owners: Owners,
  fd: number,
  parent: Inode,
  mode: number | undefined,
  creator: Creator,
): number {
  const stat = host.stat(fd)
  if (stat < 0) return stat
  const made = { uid: host.uid, gid: host.gid, mode: host.mode }
  const isDirectory = (made.mode & abi.S_IFMT) === abi.S_IFDIR
  const [wantedUid, wantedGid] = [owners.users.toHost(creator.uid), owners.groups.toHost(creator.gid)]
  // A file in a folder with that bit has the folder's group, and a folder in it has the bit too.
  const sharesGroup = isDirectory ? made.mode & S_ISGID : made.gid === wantedGid ? 0 : groupBit(host, parent)
  if (sharesGroup < 0) return sharesGroup
  const uid = wantedUid ?? made.uid
  const gid = sharesGroup ? made.gid : (wantedGid ?? made.gid)
  const isOthers = uid !== made.uid || gid !== made.gid
  const result = isOthers ? host.changeOwner(fd, uid, gid) : 0
  if (result < 0 || mode === undefined) return result
  let wanted = permissions(host, parent, made.mode, mode, creator.umask)
  if (isDirectory) {
    if (sharesGroup) wanted |= S_ISGID
  } else {
    // It must not run with the rights of somebody who did not make it.
    if (uid !== wantedUid) wanted &= ~S_ISUID
    if (gid !== wantedGid && creator.uid !== 0 && (wanted & SET_GROUP_AND_RUN) === SET_GROUP_AND_RUN)
      wanted &= ~S_ISGID
  }
  // This process's mask took bits away, or the change of owner did.
  const isRight = (made.mode & 0o7777) === wanted && !(isOthers && (wanted & SET_ID_BITS) !== 0)
  return isRight ? 0 : host.changeMode({ procName: procName(fd) }, wanted)
}

/** Whether files in a folder get its group: S_ISGID, 0, or a negative errno. */
function groupBit(host: HostFiles, folder: Inode): number {
  const result = host.stat(folder.fd)
  return result < 0 ? result : host.mode & S_ISGID
}

/** With a default access list in its folder the kernel has worked out what is allowed, and no mask counts. */
function permissions(
  host: HostFiles,
  parent: Inode,
  made: number,
  mode: number,
  umask: number | undefined,
): number {
  if (umask === undefined) return mode & 0o7777
  if (host.hasDefaultAcl(parent)) return (mode & 0o7000) | (made & 0o777)
  return mode & ~umask & 0o7777
}
