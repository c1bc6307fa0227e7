// Sentences of the OCI image specification 1.1, layer.md, checked on the disk that a guest sees.
import { describe, expect, test } from "vitest"
import type { PackFile } from "../../src/pack/items.js"
import type { SeenFile } from "../../src/test-support/erofs-reader.js"
import * as kit from "./kit.js"
import { type Clause, load, put, seen } from "./kit.js"
import {
  DIRECTORY,
  dir,
  file,
  filesOf,
  KINDS,
  type Layers,
  link,
  loadLayers,
  REGULAR,
  TYPE,
} from "./layers.js"

/** Layers, and the code they end with, or every path but the root with what is seen of it. */
type LayerCase = Clause & { readonly layers: Layers; readonly expected: string | readonly string[] }

const whiteout = (path: string): PackFile => file(path.replace(/([^/]+)$/, ".wh.$1"))
const opaque = (path: string): PackFile => file(`${path}/.wh..wh..opq`)

/** The base layer and its changes of the section "Populate Initial Filesystem" and what follows. */
const APP = [
  dir("etc"),
  file("etc/my-app-config"),
  dir("bin"),
  file("bin/my-app-binary"),
  file("bin/my-app-tools"),
]
/** The base layer of the section "Whiteouts". */
const ABC = [dir("a"), dir("a/b"), dir("a/b/c"), file("a/b/c/bar")]

const cases: readonly LayerCase[] = [
  {
    at: "Distributable Format",
    says: "MUST NOT include duplicate entries for file paths in the resulting tar archive.",
    here: "of a layer that has some, the last counts, as for whoever unpacks it; nothing is seen twice",
    layers: [[file("a", "old"), file("b"), file("a", "new")]],
    expected: ["a=new", "b="],
  },
  {
    at: "Hardlinks",
    says: "Extracting a layer with hardlink references to files outside of the layer may fail.",
    here: "to a file of a lower layer it does not fail",
    layers: [[file("a", "low")], [link("b", "a")]],
    expected: ["a=low", "b=low"],
  },
  {
    at: "Hardlinks",
    says: "Extracting a layer with hardlink references to files outside of the layer may fail.",
    here: "to a file that is nowhere it does",
    layers: [[link("b", "a")]],
    expected: "link-target",
  },
  {
    at: "Hardlinks",
    says: "Hardlinks are possible with all file types except directories.",
    here: "one to a directory is refused",
    layers: [[dir("d"), link("b", "d")]],
    expected: "link-target",
  },
  {
    at: "Hardlinks",
    says: "when a change is made to a hardlinked file",
    here: "the other name keeps what it was",
    layers: [[file("a", "one"), link("b", "a")], [file("a", "two")]],
    expected: ["a=two", "b=one"],
  },
  {
    at: "Hardlinks",
    says: "when a change is made to a hardlinked file",
    here: "a whiteout of one name leaves the other",
    layers: [[file("a", "one"), link("b", "a")], [whiteout("a")]],
    expected: ["b=one"],
  },
  {
    at: "Representing Changes",
    says: "To signify that the resource ./etc/my-app-config MUST be removed when the changeset is applied, the basename of the entry is prefixed with .wh.",
    here: "the spec's own example",
    layers: [
      APP,
      [
        dir("./etc/my-app.d"),
        file("./etc/my-app.d/default.cfg"),
        file("./bin/my-app-tools", "new"),
        whiteout("./etc/my-app-config"),
      ],
    ],
    expected: [
      "bin/",
      "bin/my-app-binary=",
      "bin/my-app-tools=new",
      "etc/",
      "etc/my-app.d/",
      "etc/my-app.d/default.cfg=",
    ],
  },
  {
    at: "Applying Changesets",
    says: "In the absence of any whiteout files in a layer changeset, the archive is extracted like a regular tar archive.",
    here: "names with ./ and /, and folders without an entry of their own",
    layers: [[file("./a"), file("/b"), file("c/d/e")]],
    expected: ["a=", "b=", "c/", "c/d/", "c/d/e="],
  },
  {
    at: "Whiteouts",
    says: "A whiteout file is an empty file with a special filename that signifies a path should be deleted.",
    here: "one with content is refused",
    layers: [[file("a")], [file(".wh.a", "x")]],
    expected: "whiteout",
  },
  {
    at: "Whiteouts",
    says: "A whiteout file is an empty file with a special filename that signifies a path should be deleted.",
    here: "a directory is none and refused",
    layers: [[file("a")], [dir(".wh.a")]],
    expected: "whiteout",
  },
  {
    at: "Whiteouts",
    says: "A whiteout filename consists of the prefix .wh. plus the basename of the path to be deleted.",
    here: "a name that only resembles another stays",
    layers: [[file("a"), file("ab"), file("d/a")], [whiteout("a")]],
    expected: ["ab=", "d/", "d/a="],
  },
  {
    at: "Whiteouts",
    says: "it is not possible to create a filesystem which has a file or directory with a name beginning with .wh.",
    here: "a folder of such a name is refused",
    layers: [[file(".wh.d/a")]],
    expected: "whiteout",
  },
  {
    at: "Whiteouts",
    says: "Once a whiteout is applied, the whiteout itself MUST also be hidden.",
    here: "also one that hides nothing",
    layers: [[file("a")], [whiteout("a"), whiteout("b"), opaque("d")]],
    expected: [],
  },
  {
    at: "Whiteouts",
    says: "Whiteout files MUST only apply to resources in lower/parent layers.",
    here: "not to the same layer, before it",
    layers: [[file("a", "low")], [file("a", "high"), whiteout("a")]],
    expected: ["a=high"],
  },
  {
    at: "Whiteouts",
    says: "Whiteout files MUST only apply to resources in lower/parent layers.",
    here: "not to the same layer, behind it, nor to higher ones",
    layers: [
      [file("a", "low"), file("b")],
      [whiteout("a"), whiteout("b"), file("a", "high")],
      [file("b", "top")],
    ],
    expected: ["a=high", "b=top"],
  },
  {
    at: "Whiteouts",
    says: "Files that are present in the same layer as a whiteout file can only be hidden by whiteout files in subsequent layers.",
    here: "and they are",
    layers: [[file("a")], [whiteout("a"), file("a", "mid")], [whiteout("a")]],
    expected: [],
  },
  {
    at: "Whiteouts",
    says: "a/.wh..wh..opq is applied first, before creating the new version of a/b, regardless of the ordering in which the whiteout file was encountered.",
    here: "with the whiteout first",
    layers: [ABC, [dir("a"), opaque("a"), dir("a/b"), dir("a/b/c"), file("a/b/c/foo")]],
    expected: ["a/", "a/b/", "a/b/c/", "a/b/c/foo="],
  },
  {
    at: "Whiteouts",
    says: "a/.wh..wh..opq is applied first, before creating the new version of a/b, regardless of the ordering in which the whiteout file was encountered.",
    here: "with the whiteout last",
    layers: [ABC, [dir("a"), dir("a/b"), dir("a/b/c"), file("a/b/c/foo"), opaque("a")]],
    expected: ["a/", "a/b/", "a/b/c/", "a/b/c/foo="],
  },
  {
    at: "Opaque Whiteout",
    says: "An opaque whiteout file hides all children of the bin/ including sub-directories and all descendants.",
    here: "the folder itself stays",
    layers: [[...APP, file("bin/tools/my-app-tool-one")], [opaque("bin")]],
    expected: ["bin/", "etc/", "etc/my-app-config="],
  },
  {
    at: "Opaque Whiteout",
    says: "Implementations SHOULD generate layers using explicit whiteout files, but MUST accept both.",
    here: "explicit ones give the same",
    layers: [
      [...APP, file("bin/tools/my-app-tool-one")],
      [whiteout("bin/my-app-binary"), whiteout("bin/my-app-tools"), whiteout("bin/tools")],
    ],
    expected: ["bin/", "etc/", "etc/my-app-config="],
  },
]

/** `path=content`, `path/`, `path->text`, or `path` alone, sorted. */
function listing(files: ReadonlyMap<string, SeenFile>): string[] {
  const shown = (mode: number, content: Buffer) =>
    mode === DIRECTORY ? "/" : mode === REGULAR ? `=${content.toString("latin1")}` : ""
  return [...files]
    .filter(([path]) => path !== "")
    .map(([path, { mode, content }]) => `${path}${shown(mode & TYPE, content)}`)
    .sort()
}

describe("image spec: layers", () => {
  test.each(cases.map(one => [kit.title(one), one] as const))("%s", async (_, { layers, expected }) => {
    const files = seen(await loadLayers(layers))
    expect(typeof files === "string" ? files : listing(files)).toEqual(expected)
  })

  test('Distributable Format: "MUST be packaged in tar archive." → something else is refused', async () => {
    const pack = () => Buffer.from("PK\x03\x04 is another format".padEnd(1024, "x"))
    expect(seen(await load(layout => layout.index([put(layout, { pack })])))).toBe("tar-header")
  })
})

const PAIRS = Object.keys(KINDS).flatMap(from => Object.keys(KINDS).map(to => [from, to] as const))

describe("image spec: Changeset over existing files", () => {
  const both =
    "If the entry and the existing path are both directories, then the existing path's attributes MUST be replaced"
  /** What each kind is when there was nothing before it. */
  const fresh = new Map<string, Map<string, SeenFile>>()
  const other =
    "In all other cases, the implementation MUST do the semantic equivalent of removing and recreating the file path"

  test.each(PAIRS.filter(([from, to]) => from !== "a directory" || to !== "a directory"))(
    `"${other}" → %s becomes %s`,
    async (from, to) => {
      const upper = KINDS[to] as readonly PackFile[]
      const over = await filesOf([KINDS[from] as readonly PackFile[], upper])
      const alone = fresh.get(to) ?? (await filesOf([upper]))
      fresh.set(to, alone)
      const { nid: _, nlink: __, ...found } = over.get("x") as SeenFile
      expect(found).toMatchObject(essence(alone.get("x")))
      expect([...over.keys()].filter(path => path.startsWith("x/"))).toEqual(
        [...alone.keys()].filter(path => path.startsWith("x/")),
      )
    },
  )

  test(`"${both}" → and what is in it stays`, async () => {
    const before = dir("d", { mode: 0o700, uid: 1, gid: 2, mtime: 3, xattrs: { "user.a": "1" } })
    const after = dir("d", { mode: 0o1777, uid: 4, gid: 5, mtime: 6.5, xattrs: { "user.b": "2" } })
    const files = await filesOf([[before, file("d/a")], [after]])
    expect(files.get("d")).toMatchObject({ mode: DIRECTORY | 0o1777, uid: 4, gid: 5, mtime: 6, nsec: 5e8 })
    expect(files.get("d")?.xattrs).toEqual(new Map([["user.b", "2"]]))
    expect(files.has("d/a")).toBe(true)
  })

  test(`"${both}" → a folder that has no entry of its own replaces nothing`, async () => {
    const files = await filesOf([[dir("d", { mode: 0o700, uid: 7 })], [file("d/a")]])
    expect(files.get("d")).toMatchObject({ mode: DIRECTORY | 0o700, uid: 7 })
  })

  function essence(found: SeenFile | undefined): Partial<SeenFile> {
    const { mode, uid, gid, mtime, nsec, rdev } = found as SeenFile
    const isDirectory = (mode & TYPE) === DIRECTORY
    return {
      mode,
      uid,
      gid,
      mtime,
      nsec,
      rdev,
      ...(isDirectory ? {} : { content: found?.content as Buffer }),
    }
  }
})
