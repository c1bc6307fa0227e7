const USER = "user."
/**
 * Kinds that give rights: kept under other names, as the guest's rights over its files must not become rights on the
 * host. There is none for `system.`: an access list would be kept and obeyed by nobody.
 */
const FOREIGN = ["trusted.", "security."]
const KEPT = "user.virtiofs."

/** The host's name of a guest's attribute; undefined where there can be none. */
export function hostAttribute(name: string): string | undefined {
  if (name.startsWith(KEPT)) return undefined
  if (name.startsWith(USER)) return name
  return FOREIGN.some(kind => name.startsWith(kind)) ? KEPT + name : undefined
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
