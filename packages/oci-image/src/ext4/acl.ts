import { ImageError } from "../errors.js"

/** Entries of these kinds are about somebody, whose number they have. @see linux/posix_acl.h */
const ACL_USER = 0x02
const ACL_GROUP = 0x08

/** `POSIX_ACL_XATTR_VERSION` and its `struct posix_acl_xattr_entry`. */
const XATTR_VERSION = 2
const XATTR_ENTRY_SIZE = 8
/** `EXT4_ACL_VERSION`. */
const EXT4_VERSION = 1
const HEADER_SIZE = 4

/** Whether an attribute is an access list, which ext4 keeps in a form of its own. */
export function isAcl(name: string): boolean {
  return name.startsWith("system.posix_acl_")
}

/**
 * The access list that programs set, as ext4 keeps it: without numbers where there is nobody.
 *
 * @throws ImageError `entry-xattr` for one that is none
 */
export function ext4Acl(value: Buffer): Buffer {
  const size = value.length - HEADER_SIZE
  if (size < 0 || size % XATTR_ENTRY_SIZE !== 0 || value.readUInt32LE(0) !== XATTR_VERSION)
    throw new ImageError("entry-xattr", "an access list of the image is none")
  const header = Buffer.alloc(HEADER_SIZE)
  header.writeUInt32LE(EXT4_VERSION)
  const entries: Buffer[] = []
  for (let at = HEADER_SIZE; at < value.length; at += XATTR_ENTRY_SIZE) {
    const isAboutSomebody = [ACL_USER, ACL_GROUP].includes(value.readUInt16LE(at))
    entries.push(value.subarray(at, at + (isAboutSomebody ? XATTR_ENTRY_SIZE : XATTR_ENTRY_SIZE / 2)))
  }
  return Buffer.concat([header, ...entries])
}
