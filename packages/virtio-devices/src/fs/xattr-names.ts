const USER = "user."
/** Where attributes of other kinds are kept: the guest's rights over its files must not become rights on the host. */
const KEPT = "user.virtiofs."
/** An access list would be kept and obeyed by nobody. */
const ACL = "system.posix_acl_"

/** The host's name of a guest's attribute; undefined where there can be none. */
export function hostAttribute(name: string): string | undefined {
  if (name.startsWith(KEPT) || name.startsWith(ACL)) return undefined
  return name.startsWith(USER) ? name : KEPT + name
}

/** The guest's names of the host's attributes, which are NUL-terminated; those that the guest must not see are left out. */
export function guestAttributes(list: Buffer): Buffer {
  const names = list.toString("latin1").split("\0").slice(0, -1)
  const shown = names.flatMap(name => {
    if (name.startsWith(KEPT)) return [name.slice(KEPT.length)]
    return name.startsWith(USER) ? [name] : []
  })
  return Buffer.from(shown.map(name => `${name}\0`).join(""), "latin1")
}
