const USER = "user."
/** Access lists, which have a meaning on the host: only where a session agreed on them. */
const ACCESS_LISTS = ["system.posix_acl_access", "system.posix_acl_default"]
/**
 * Kinds that give rights: kept under other names, as the guest's rights over its files must not become rights on the
 * host. There is none for the rest of `system.`: it would be kept and obeyed by nobody.
 */
const FOREIGN = ["trusted.", "security."]
const KEPT = "user.virtiofs."

/** The host's name of a guest's attribute; undefined where there can be none. */
export function hostAttribute(name: string, acl = false): string | undefined {
  if (acl && isAccessList(name)) return name
  if (name.startsWith(KEPT)) return undefined
  if (name.startsWith(USER)) return name
  return FOREIGN.some(kind => name.startsWith(kind)) ? KEPT + name : undefined
}

/** Whether an attribute is an access list. */
export function isAccessList(name: string): boolean {
  return ACCESS_LISTS.includes(name)
}

/** The guest's names of the host's attributes, which are NUL-terminated; those that the guest must not see are left out. */
export function guestAttributes(list: Buffer, acl = false): Buffer {
  const names = list.toString("latin1").split("\0").slice(0, -1)
  const shown = names.flatMap(name => {
    if (name.startsWith(KEPT)) return [name.slice(KEPT.length)]
    return name.startsWith(USER) || (acl && isAccessList(name)) ? [name] : []
  })
  return Buffer.from(shown.map(name => `${name}\0`).join(""), "latin1")
}
