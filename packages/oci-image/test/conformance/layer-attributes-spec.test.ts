// Sentences of the OCI image specification 1.1, layer.md, about what a file is besides its name.
import { describe, expect, test } from "vitest"
import type { PackFile } from "../../src/pack/items.js"
import type { SeenFile } from "../../src/test-support/erofs-reader.js"
import { END, paxRecord, rawEntry, rawPax } from "../../src/test-support/raw-tar.js"
import { load, put, seen } from "./kit.js"
import { dir, file, filesOf, KINDS, link, REGULAR, symlink } from "./layers.js"

describe("image spec: File Attributes", () => {
  const rule = "Where supported, MUST include file attributes for Additions and Modifications"

  const attributes: readonly (readonly [string, PackFile, object])[] = [
    ["modification time", file("x", "", { mtime: 1_700_000_000 }), { mtime: 1_700_000_000, nsec: 0 }],
    [
      "modification time to the microsecond",
      file("x", "", { mtime: 1234567.654321 }),
      { mtime: 1_234_567, nsec: 654_321_000 },
    ],
    ["modification time before 1970", file("x", "", { mtime: -1.25 }), { mtime: -2, nsec: 750_000_000 }],
    ["modification time after 2106", file("x", "", { mtime: 2 ** 33 }), { mtime: 2 ** 33 }],
    ["user and group", file("x", "", { uid: 1000, gid: 100 }), { uid: 1000, gid: 100 }],
    ["user and group beyond 21 bits", file("x", "", { uid: 3e9, gid: 4e9 }), { uid: 3e9, gid: 4e9 }],
    ["mode", file("x", "", { mode: 0o640 }), { mode: REGULAR | 0o640 }],
    ["setuid, setgid and sticky bits", file("x", "", { mode: 0o7755 }), { mode: REGULAR | 0o7755 }],
    ["symlink reference", symlink("x", "../a b"), { content: Buffer.from("../a b"), mode: 0o120777 }],
    [
      "major and minor numbers",
      { path: "x", type: "char", major: 10, minor: 229 },
      { rdev: (10 << 8) | 229 },
    ],
    [
      "extended attributes",
      file("x", "", { xattrs: { "user.k": "v\0w", "security.capability": "c" } }),
      {
        xattrs: new Map([
          ["user.k", "v\0w"],
          ["security.capability", "c"],
        ]),
      },
    ],
    [
      "extended attributes of a directory",
      dir("x", { xattrs: { "trusted.k": "v" } }),
      { xattrs: new Map([["trusted.k", "v"]]) },
    ],
  ]

  test.each(attributes)(`"${rule}" → %s`, async (_, entry, expected) => {
    expect((await filesOf([[entry]])).get("x")).toMatchObject(expected)
  })

  /** Streams that our own writer does not make. */
  const streams: readonly (readonly [string, string, readonly Buffer[], string | object])[] = [
    [
      "Sparse files SHOULD NOT be used because they lack consistent support across tar implementations.",
      "GNU's old ones are refused, not guessed at",
      [rawEntry({ name: "x", type: "S" }, "data")],
      "tar-sparse",
    ],
    [
      "Sparse files SHOULD NOT be used because they lack consistent support across tar implementations.",
      "those in PAX headers too",
      [rawPax(paxRecord("GNU.sparse.major", "1")), rawEntry({ name: "x" }, "data")],
      "tar-sparse",
    ],
    [
      "Modification Time (mtime)",
      "to the nanosecond, as PAX has it",
      [rawPax(paxRecord("mtime", "1700000000.123456789")), rawEntry({ name: "x", mtime: 1 })],
      { mtime: 1_700_000_000, nsec: 123_456_789 },
    ],
    [
      "User Name (uname) secondary to uid",
      "the number counts, no name is looked up",
      [
        rawPax(paxRecord("uname", "root") + paxRecord("gname", "root")),
        rawEntry({ name: "x", uid: 7, gid: 8 }),
      ],
      { uid: 7, gid: 8 },
    ],
    [
      "sockets",
      "tar has no type for them: an entry of an unknown one is refused",
      [rawEntry({ name: "x", type: "8" })],
      "tar-type",
    ],
    [
      "Hardlinks are stored in a tar archive with type of a 1 char",
      "one entry with it is a second name",
      [rawEntry({ name: "a" }, "data"), rawEntry({ name: "x", type: "1", linkname: "a" })],
      { nlink: 2, content: Buffer.from("data") },
    ],
    [
      "Windows file attributes (MSWINDOWS.fileattr)",
      "not followed: there is no Windows here, they are passed over",
      [rawPax(paxRecord("MSWINDOWS.fileattr", "32")), rawEntry({ name: "x" }, "data")],
      { content: Buffer.from("data"), xattrs: new Map() },
    ],
  ]

  test.each(streams)('"%s" → %s', async (_, __, entries, expected) => {
    const tars = [Buffer.concat([...entries, END])]
    const files = seen(await load(layout => layout.index([put(layout, { tars })])))
    if (typeof expected === "string") expect(files).toBe(expected)
    else expect((files as Map<string, SeenFile>).get("x")).toMatchObject(expected)
  })

  test('"Hardlinked files are on a same device and have the same inode." → of every kind but directories', async () => {
    for (const [kind, files] of Object.entries(KINDS)) {
      if (kind === "a directory" || kind === "a hard link") continue
      const seenFiles = await filesOf([[...files, link("z", "x")]])
      expect(seenFiles.get("z")?.nid).toBe(seenFiles.get("x")?.nid)
      expect(seenFiles.get("z")?.nlink).toBe(2)
    }
  })

  test('"Hardlinked files have the same inode." → also to a file of a lower layer', async () => {
    const files = await filesOf([[file("a", "low", { mode: 0o600 })], [link("b", "a")]])
    expect(files.get("b")).toEqual(files.get("a"))
    expect(files.get("a")?.nlink).toBe(2)
  })
})
