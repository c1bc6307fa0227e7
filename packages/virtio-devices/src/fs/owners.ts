/** How numbers of users, or of groups, are told to the guest, and the guest's taken to the host. */
export interface IdMap {
  toGuest(id: number): number
  /** undefined: no file may have this owner. */
  toHost(id: number): number | undefined
}

/** Owners of files inside and outside. */
export interface Owners {
  readonly users: IdMap
  readonly groups: IdMap
}

/** `nobody`, whom the guest sees where the host has an owner that it must not know. */
const NOBODY = 65534
/** (uid_t) -1, which is nobody's: chown(2) takes it for "unchanged". */
const NO_ID = 0xffff_ffff

/** The same on both sides. */
const same: IdMap = { toGuest: id => id, toHost: id => (id === NO_ID ? undefined : id) }

/** For a server that runs as root. */
export const keepOwners: Owners = { users: same, groups: same }

/** All that the guest makes belongs to one host user and group, whom the guest sees as root. */
export function squashOwners(uid: number, gid: number): Owners {
  return { users: only(uid), groups: only(gid) }
}

function only(hostId: number): IdMap {
  return {
    toGuest: id => (id === hostId ? 0 : NOBODY),
    toHost: id => (id === 0 ? hostId : undefined),
  }
}

/** Whether a file may be asked to belong to this user or group at all. */
export function isOwner(id: number): boolean {
  return id !== NO_ID
}
