/** How owners of files are told to the guest, and the guest's taken to the host. */
export interface Owners {
  toGuest(id: number): number
  /** undefined: no file may have this owner. */
  toHost(id: number): number | undefined
}

/** `nobody`, whom the guest sees where the host has an owner that it must not know. */
const NOBODY = 65534

/** The same on both sides: for a server that runs as root. */
export const keepOwners: Owners = { toGuest: id => id, toHost: id => id }

/** All that the guest makes belongs to one host user, whom the guest sees as root. */
export function squashOwners(hostId: number): Owners {
  return {
    toGuest: id => (id === hostId ? 0 : NOBODY),
    toHost: id => (id === 0 ? hostId : undefined),
  }
}
