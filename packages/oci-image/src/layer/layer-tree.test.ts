import { describe, expect, test } from "vitest"
import { DEFAULT_LIMITS } from "../limits.js"
import type { PackFile } from "../pack/items.js"
import { codeOf, layerOf } from "../test-support/images.js"
import type { TreeNode } from "./tree.js"

/** Every path of a tree with its kind; whiteouts as `-name`, opaque directories with `!`. */
function paths(node: TreeNode, at = ""): string[] {
  const own = [...(node.whiteouts ?? [])].map(name => `${at}-${name}`)
  const below = [...(node.children ?? [])].flatMap(([name, child]) => {
    const path = `${at}${name}`
    return child.kind === "directory"
      ? [`${path}/${child.opaque ? "!" : ""}`, ...paths(child, `${path}/`)]
      : [path]
  })
  return [...own, ...below].sort()
}

const dir = (path: string): PackFile => ({ path: `${path}/` })
const file = (path: string, content = ""): PackFile => ({ path, content })
const link = (path: string, target: string): PackFile => ({ path, type: "link", target })
const symlink = (path: string, target: string): PackFile => ({ path, type: "symlink", target })

/**
 * Attempts to get out of the root, after the cases of containerd's TestBreakouts and of the advisories that
 * catalogue id I1 names. Nothing is unpacked, so nothing can be written outside; what is checked is that every
 * case has one plain outcome: a refusal with its code, or a tree below the root.
 */
const breakouts: readonly (readonly [string, readonly PackFile[], string | readonly string[]])[] = [
  ["absolute name", [file("/etc/passwd")], ["etc/", "etc/passwd"]],
  ["many leading slashes", [file("///etc//passwd")], ["etc/", "etc/passwd"]],
  ["name with .. at the start", [file("../../etc/passwd")], "entry-escapes"],
  ["name with .. in the middle", [file("a/../../etc/passwd")], "entry-escapes"],
  ["name with .. that stays inside", [file("a/b/../c")], "entry-escapes"],
  ["name with .. at the end", [dir("a/..")], "entry-escapes"],
  ["absolute name with ..", [file("/../etc/passwd")], "entry-escapes"],
  ["directory named ..", [dir("..")], "entry-escapes"],
  ["file through an absolute symlink", [symlink("etc", "/etc"), file("etc/passwd")], "entry-through-link"],
  [
    "file through a relative symlink",
    [symlink("up", "../../.."), file("up/etc/passwd")],
    "entry-through-link",
  ],
  [
    "file through a symlink inside the root",
    [dir("a"), symlink("b", "a"), file("b/c")],
    "entry-through-link",
  ],
  [
    "file through two symlinks",
    [symlink("a", "/"), symlink("b", "a"), file("b/etc/x")],
    "entry-through-link",
  ],
  [
    "file through a symlink below a directory",
    [dir("d"), symlink("d/l", "/etc"), file("d/l/x")],
    "entry-through-link",
  ],
  [
    "file through a symlink with a trailing dot",
    [symlink("l", "/etc"), file("l/./passwd")],
    "entry-through-link",
  ],
  ["directory through a symlink", [symlink("l", "/etc"), dir("l/sub")], "entry-through-link"],
  ["symlink through a symlink", [symlink("l", "/etc"), symlink("l/x", "y")], "entry-through-link"],
  ["hard link through a symlink", [symlink("l", "/etc"), file("a"), link("l/x", "a")], "entry-through-link"],
  ["whiteout through a symlink", [symlink("l", "/etc"), file("l/.wh.passwd")], "entry-through-link"],
  ["opaque mark through a symlink", [symlink("l", "/etc"), file("l/.wh..wh..opq")], "entry-through-link"],
  [
    "device through a symlink",
    [symlink("l", "/dev"), { path: "l/sda", type: "block", major: 8 }],
    "entry-through-link",
  ],
  ["file below a file", [file("a"), file("a/b")], "entry-through-link"],
  ["file below a hard link", [file("a"), link("b", "a"), file("b/c")], "entry-through-link"],
  ["hard link to an absolute path", [file("a"), link("b", "/a")], ["a", "b"]],
  ["hard link to ..", [link("b", "../../etc/passwd")], "entry-escapes"],
  ["hard link to .. that stays inside", [file("a"), link("d/b", "d/../a")], "entry-escapes"],
  ["hard link through a symlink", [symlink("l", "/etc"), link("b", "l/passwd")], "link-target"],
  [
    "hard link to a symlink is one more name of it",
    [symlink("l", "/etc/passwd"), link("b", "l")],
    ["b", "l"],
  ],
  [
    "file over a hard link to a symlink",
    [symlink("l", "/etc/passwd"), link("b", "l"), file("b", "x")],
    ["b", "l"],
  ],
  ["hard link to a directory", [dir("d"), link("b", "d")], "link-target"],
  ["hard link to the root", [link("b", "/")], "link-target"],
  ["hard link to itself", [link("b", "./b")], "link-target"],
  ["hard link without target", [link("b", "")], "entry-name"],
  [
    "directory replaced by a symlink, then a file in it",
    [dir("d"), symlink("d", "/etc"), file("d/x")],
    "entry-through-link",
  ],
  ["directory replaced by a symlink loses its files", [dir("d"), file("d/x"), symlink("d", "/etc")], ["d"]],
  ["symlink replaced by a directory", [symlink("d", "/etc"), dir("d"), file("d/x")], ["d/", "d/x"]],
  ["file over a directory", [dir("d"), file("d/x"), file("d")], ["d"]],
  ["root as a symlink", [symlink(".", "/etc")], "entry-name"],
  ["root as a file", [{ path: "/", type: "file" }], "entry-name"],
  ["empty name", [file("")], "entry-name"],
  ["file with a trailing slash", [{ path: "a/", type: "file" }], "entry-name"],
  ["symlink with a trailing slash", [symlink("a/", "b")], "entry-name"],
  ["symlink without text", [symlink("a", "")], "entry-name"],
  ["symlink longer than a path", [symlink("a", "t".repeat(4096))], "entry-name"],
]

describe("I1: break-outs", () => {
  test.each(breakouts)("I1: %s", async (_name, files, expected) => {
    if (typeof expected === "string") expect(await codeOf(() => layerOf(files))).toBe(expected)
    else expect(paths(layerOf(files).root)).toEqual(expected)
  })
})

describe("I2: metadata of links", () => {
  test("I2: owner, mode and attributes of an entry that follows a symlink never reach its target", () => {
    const target: PackFile = { path: "shadow", mode: 0o600, uid: 1 }
    const { root } = layerOf([
      target,
      symlink("l", "shadow"),
      { path: "l", type: "symlink", target: "shadow", mode: 0o777, uid: 9 },
    ])
    expect(root.children?.get("shadow")).toMatchObject({ mode: 0o600, uid: 1 })
    expect(root.children?.get("l")).toMatchObject({ uid: 9 })
  })

  test("I2: a hard link entry's own owner and mode change nothing", () => {
    const { root } = layerOf([
      { path: "a", mode: 0o600, uid: 1 },
      { path: "b", type: "link", target: "a", mode: 0o4777, uid: 0 },
    ])
    expect(root.children?.get("b")).toBe(root.children?.get("a"))
    expect(root.children?.get("b")).toMatchObject({ mode: 0o600, uid: 1 })
  })
})

const whiteouts: readonly (readonly [string, readonly PackFile[], string | readonly string[]])[] = [
  ["hides a lower name", [dir("a"), file("a/.wh.b")], ["a/", "a/-b"]],
  ["hides in the root", [file(".wh.b")], ["-b"]],
  [".wh. alone", [file(".wh.")], "whiteout"],
  [".wh.. hides the directory itself", [file("a/.wh..")], "whiteout"],
  [".wh... hides the parent", [file("a/.wh...")], "whiteout"],
  ["opaque mark", [file("a/.wh..wh..opq")], ["a/!"]],
  ["opaque mark of the root", [file(".wh..wh..opq")], []],
  ["opaque mark on a file", [file("a"), file("a/.wh..wh..opq")], "entry-through-link"],
  ["opaque mark in the middle of a path", [file("a/.wh..wh..opq/b")], "whiteout"],
  ["whiteout in the middle of a path", [file("a/.wh.b/c")], "whiteout"],
  ["whiteout as a directory", [dir(".wh.b")], "whiteout"],
  ["whiteout as a symlink", [symlink(".wh.b", "/etc")], "whiteout"],
  ["whiteout as a hard link", [file("a"), link(".wh.b", "a")], "whiteout"],
  ["whiteout with content", [file(".wh.b", "x")], "whiteout"],
  ["hard link to a whiteout", [file(".wh.b"), link("a", ".wh.b")], "link-target"],
  [
    "AUFS book-keeping is ignored",
    [file(".wh..wh.aufs"), dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x")],
    [],
  ],
  ["whiteout and file of one name", [file(".wh.b"), file("b")], ["-b", "b"]],
]

describe("I3: whiteouts", () => {
  test.each(whiteouts)("I3: %s", async (_name, files, expected) => {
    if (typeof expected === "string") expect(await codeOf(() => layerOf(files))).toBe(expected)
    else expect(paths(layerOf(files).root)).toEqual(expected)
  })

  test("I3: an opaque root is marked", () => {
    expect(layerOf([file(".wh..wh..opq")]).root.opaque).toBe(true)
  })
})

describe("I6: counts and names", () => {
  test("I6: more directories inside each other than the limit", async () => {
    const deep = (n: number) => [dir(Array(n).fill("d").join("/"))]
    expect(await codeOf(() => layerOf(deep(DEFAULT_LIMITS.depth)))).toBeUndefined()
    expect(await codeOf(() => layerOf(deep(DEFAULT_LIMITS.depth + 1)))).toBe("limit")
  })

  test("I6: a path of 10^4 components", async () => {
    expect(await codeOf(() => layerOf([dir(Array(10_000).fill("d").join("/"))]))).toBe("limit")
  })

  test("I6: more entries than the limit, made-up directories counted", async () => {
    const limits = { ...DEFAULT_LIMITS, entries: 100 }
    expect(
      await codeOf(() =>
        layerOf(
          Array.from({ length: 98 }, (_, i) => file(`f${i}`)),
          limits,
        ),
      ),
    ).toBeUndefined()
    expect(
      await codeOf(() =>
        layerOf(
          Array.from({ length: 51 }, (_, i) => file(`d${i}/f`)),
          limits,
        ),
      ),
    ).toBe("limit")
    expect(
      await codeOf(() =>
        layerOf(
          Array.from({ length: 101 }, (_, i) => file(`.wh.f${i}`)),
          limits,
        ),
      ),
    ).toBe("limit")
  })

  test("I6: 10^5 hard links to one file are one node", () => {
    const { root } = layerOf([file("a"), ...Array.from({ length: 100_000 }, (_, i) => link(`l${i}`, "a"))])
    expect(new Set(root.children?.values()).size).toBe(1)
  })

  test("I6: names of any bytes and names that differ in case are kept apart", () => {
    const { root } = layerOf([
      { path: Buffer.from([0xff, 0xfe, 0x0a]) },
      file("A"),
      file("a"),
      file("é"),
      file("e\u0301"),
    ])
    expect([...(root.children?.keys() ?? [])]).toEqual(["\xff\xfe\n", "A", "a", "Ã©", "eÌ\x81"])
  })

  test("I6: a name of 255 bytes is the longest", async () => {
    expect(await codeOf(() => layerOf([file("n".repeat(255))]))).toBeUndefined()
    expect(await codeOf(() => layerOf([file("n".repeat(256))]))).toBe("entry-name")
  })
})

describe("I7: special files", () => {
  test("I7: devices, fifos and setuid files are kept as facts about the image", () => {
    const { root } = layerOf([
      { path: "null", type: "char", major: 1, minor: 3, mode: 0o666 },
      { path: "sda", type: "block", major: 8, minor: 1_000_000 },
      { path: "pipe", type: "fifo" },
      { path: "su", mode: 0o4755 },
    ])
    const node = (name: string) => root.children?.get(name)
    expect(node("null")).toMatchObject({ kind: "char", major: 1, minor: 3, mode: 0o666 })
    expect(node("sda")).toMatchObject({ kind: "block", major: 8, minor: 1_000_000 })
    expect(node("pipe")).toMatchObject({ kind: "fifo" })
    expect(node("su")).toMatchObject({ mode: 0o4755 })
  })

  test("I7: device numbers that Linux does not have", async () => {
    expect(await codeOf(() => layerOf([{ path: "x", type: "char", major: 4096 }]))).toBe("entry-device")
    expect(await codeOf(() => layerOf([{ path: "x", type: "char", minor: 0x100000 }]))).toBe("entry-device")
  })

  test("I7: attributes that only overlayfs should set, or that Linux does not have, are left out", () => {
    const xattrs = {
      "user.a": "1",
      "security.capability": Buffer.from([1, 0, 0, 2]),
      "trusted.overlay.opaque": "y",
      "user.overlay.redirect": "/x",
      "com.apple.provenance": "z",
      "system.nfs4_acl": "z",
    }
    const { root } = layerOf([{ path: "f", xattrs }])
    expect([...(root.children?.get("f")?.xattrs?.keys() ?? [])]).toEqual(["security.capability", "user.a"])
  })
})
