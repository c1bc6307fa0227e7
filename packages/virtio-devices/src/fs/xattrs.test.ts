import { mkdtempSync, rmSync } from "node:fs"
import { constants, tmpdir } from "node:os"
import { join } from "node:path"
import { files } from "@ts-vmm/native"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { FUSE } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { type FuseDriver, u32 } from "./testing.js"
import { guestAttributes, hostAttribute } from "./xattr-names.js"

const { E2BIG, EINVAL, ENODATA, ENOSPC, EOPNOTSUPP, EPERM, ERANGE } = constants.errno
const isRoot = process.getuid?.() === 0
const bytes = (text: string) => Buffer.from(text)

/** Not every file system of temporary files has them (tmpfs only since Linux 6.6). */
const hasAttributes = (() => {
  const folder = mkdtempSync(join(tmpdir(), "tsvmm-xattr-"))
  const result = files.setxattr(bytes(folder), bytes("user.probe"), bytes("x"), 0)
  rmSync(folder, { recursive: true })
  return result === 0
})()

test("F12: names are mapped so that none of the guest's has a meaning on the host", () => {
  for (const name of ["security.capability", "trusted.overlay.opaque", "security.selinux"])
    expect(hostAttribute(name)).toBe(`user.virtiofs.${name}`)
  expect(hostAttribute("user.mine")).toBe("user.mine")
  for (const name of [
    "user.virtiofs.",
    "user.virtiofs.security.capability",
    "system.posix_acl_access",
    "system.x",
    "odd",
  ])
    expect(hostAttribute(name)).toBeUndefined()
  const list = "user.mine\0security.capability\0user.virtiofs.trusted.x\0trusted.overlay.opaque\0"
  expect(guestAttributes(bytes(list)).toString()).toBe("user.mine\0trusted.x\0")
  expect(guestAttributes(bytes("")).toString()).toBe("")
})

describe.skipIf(!hasAttributes)("attributes of files (needs them in the temporary folder)", () => {
  let share: ShareUnderTest
  let fs: FuseDriver
  let node: number
  const set = async (
    name: string | Uint8Array,
    value: string | Uint8Array,
    flags = 0,
    size = value.length,
  ) => {
    const parts = [u32(size), u32(flags), name, Buffer.from(value as string)]
    return (await fs.request(FUSE.SETXATTR, node, parts)).error
  }
  const get = async (name: string, size = 65_536) => {
    const { error, body } = await fs.request(FUSE.GETXATTR, node, [u32(size), u32(0), name])
    return error === 0 ? Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString() : error
  }
  const hostNames = () => {
    const list = new Uint8Array(65_536)
    const length = files.listxattr(bytes(share.path("file")), list)
    return Buffer.from(list.subarray(0, length)).toString().split("\0").slice(0, -1).sort()
  }

  beforeEach(async () => {
    share = new ShareUnderTest()
    share.put({ file: "" })
    ;({ fs } = await share.attach())
    node = await fs.node("file")
  })
  afterEach(() => share[Symbol.asyncDispose]())

  test("F12: rights that the guest gives its files are none on the host", async () => {
    const names = ["security.capability", "trusted.overlay.opaque", "user.mine"]
    for (const name of names) expect(await set(name, "value")).toBe(0)
    expect(hostNames().filter(name => !name.startsWith("user."))).toEqual(
      hostNames().filter(name => name === "security.selinux"),
    )
    for (const name of names) expect(await get(name)).toBe("value")
    const { body } = await fs.request(FUSE.LISTXATTR, node, [u32(1000), u32(0)])
    const listed = Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString().split("\0").sort()
    expect(listed).toEqual(["", ...names].sort())
    for (const name of names) expect((await fs.request(FUSE.REMOVEXATTR, node, [name])).error).toBe(0)
    expect(await get("user.mine")).toBe(-ENODATA)
  })

  test.skipIf(!isRoot)("F12: attributes of the host are neither seen nor changed (needs root)", async () => {
    const path = bytes(share.path("file"))
    expect(files.setxattr(path, bytes("trusted.host"), bytes("host"), 0)).toBe(0)
    expect(await get("trusted.host")).toBe(-ENODATA)
    expect(await set("trusted.host", "guest")).toBe(0)
    expect(await get("trusted.host")).toBe("guest")
    const value = new Uint8Array(16)
    expect(files.getxattr(path, bytes("trusted.host"), value)).toBe(4)
    await fs.request(FUSE.REMOVEXATTR, node, ["trusted.host"])
    expect(hostNames()).toContain("trusted.host")
    const { body } = await fs.request(FUSE.LISTXATTR, node, [u32(1000), u32(0)])
    expect(body.byteLength).toBe(0)
  })

  test("F12: names and values that are too long, sizes that are not theirs", async () => {
    for (const name of ["user.virtiofs.x", "system.posix_acl_default"]) {
      expect(await set(name, "x")).toBe(-EOPNOTSUPP)
      expect(await get(name)).toBe(-EOPNOTSUPP)
      expect((await fs.request(FUSE.REMOVEXATTR, node, [name])).error).toBe(-EOPNOTSUPP)
    }
    expect(await set(`user.${"x".repeat(251)}`, "x")).toBe(-ERANGE)
    expect(await set(`trusted.${"x".repeat(247)}`, "x")).toBe(-ERANGE)
    expect(await set(`user.${"x".repeat(60_000)}`, "x")).toBe(-ERANGE)
    expect(await set("user.big", new Uint8Array(65_537))).toBe(-E2BIG)
    expect([0, -ENOSPC]).toContain(await set("user.big", new Uint8Array(65_536)))
    for (const size of [0, 2, 0xffff_ffff]) expect(await set("user.x", "x", 0, size)).toBe(-EINVAL)
    expect(await set("", "x")).toBe(-EINVAL)
    expect(await set(bytes("user.x"), "")).toBe(-EINVAL)
    expect(await set("user.x", "x", 4)).toBe(-EINVAL)
    expect(await set("user.", "x")).toBe(-EINVAL)
    expect(await set("user.empty", "")).toBe(0)
    expect(await get("user.empty")).toBe("")
    expect(await get("user.empty", 0xffff_ffff)).toBe("")
  })

  test("a FIFO has none, and can have none", async () => {
    await fs.request(FUSE.MKNOD, 1, [u32(0o010600), u32(0), u32(0), u32(0), "fifo"])
    node = await fs.node("fifo")
    expect(await set("user.x", "x")).toBe(-EPERM)
    expect(await get("user.x")).toBe(-ENODATA)
  })
})
