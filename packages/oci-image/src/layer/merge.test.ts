import { describe, expect, test } from "vitest"
import { DEFAULT_LIMITS } from "../limits.js"
import type { PackFile } from "../pack/items.js"
import { codeOf, layerOf } from "../test-support/images.js"
import { mergeLayers } from "./merge.js"
import { findNode, type TreeNode } from "./tree.js"

function merge(...layers: (readonly PackFile[])[]): TreeNode {
  return mergeLayers(
    layers.map((files, part) => ({ root: layerOf(files).root, part })),
    DEFAULT_LIMITS,
  )
}

function paths(node: TreeNode, at = ""): string[] {
  return [...(node.children ?? [])]
    .flatMap(([name, child]) => [at + name, ...(child.children ? paths(child, `${at}${name}/`) : [])])
    .sort()
}

describe("stacking layers", () => {
  test("a whiteout removes a lower file or tree, and nothing of its own layer", () => {
    const root = merge(
      [{ path: "d/a" }, { path: "d/t/x" }, { path: "f" }],
      [{ path: "d/.wh.t" }, { path: ".wh.f" }, { path: "f" }],
    )
    expect(paths(root)).toEqual(["d", "d/a", "f"])
    expect(findNode(root, ["f"])?.part).toBe(1)
  })

  test("an opaque directory keeps only what its own and higher layers have", () => {
    const root = merge(
      [{ path: "d/a" }, { path: "d/s/x" }],
      [{ path: "d/b" }, { path: "d/.wh..wh..opq" }],
      [{ path: "d/c" }],
    )
    expect(paths(root)).toEqual(["d", "d/b", "d/c"])
  })

  test("I3: an opaque root hides everything below", () => {
    expect(paths(merge([{ path: "a" }], [{ path: ".wh..wh..opq" }, { path: "b" }]))).toEqual(["b"])
  })

  test("I3: whiteouts of what is not there, or below what is no directory, do nothing", () => {
    const root = merge(
      [{ path: "l", target: "d" }, { path: "d/a" }],
      [{ path: "l/.wh.a" }, { path: "n/m/.wh.x" }, { path: ".wh.q" }],
    )
    expect(paths(root)).toEqual(["d", "d/a", "l"])
    expect(findNode(root, ["l"])?.kind).toBe("symlink")
  })

  test("a directory that no entry describes keeps the lower one's owner and mode", () => {
    const root = merge([{ path: "d/", mode: 0o700, uid: 5 }], [{ path: "d/a" }])
    expect(findNode(root, ["d"])).toMatchObject({ mode: 0o700, uid: 5 })
  })

  test("a directory that an entry describes takes its owner and mode", () => {
    const root = merge(
      [{ path: "d/", mode: 0o700 }, { path: "d/a" }],
      [{ path: "d/", mode: 0o755, mtime: 7 }],
    )
    expect(findNode(root, ["d"])).toMatchObject({ mode: 0o755, mtime: 7 })
    expect(paths(root)).toEqual(["d", "d/a"])
  })

  test("I1: a directory over a lower symlink replaces it and is not written through it", () => {
    const root = merge(
      [{ path: "etc/passwd" }, { path: "l", target: "etc" }],
      [{ path: "l/passwd", content: "x" }],
    )
    expect(findNode(root, ["l"])?.kind).toBe("directory")
    expect(findNode(root, ["etc", "passwd"])?.part).toBe(0)
  })

  test("a file over a lower directory replaces the tree", () => {
    expect(paths(merge([{ path: "d/a" }], [{ path: "d" }]))).toEqual(["d"])
  })

  test("whiteouts of a middle layer do not act on higher ones", () => {
    expect(paths(merge([{ path: "a" }], [{ path: ".wh.a" }], [{ path: "a" }]))).toEqual(["a"])
  })

  test("whiteouts below a directory that the layer adds are forgotten", () => {
    const root = merge([], [{ path: "d/" }, { path: "d/.wh.x" }], [{ path: "d/y" }])
    expect(findNode(root, ["d"])?.whiteouts).toBeUndefined()
  })
})

describe("hard links to lower layers", () => {
  const link = (path: string, target: string): PackFile => ({ path, type: "link", target })

  test("share the lower file, also when the layer removes its old name", () => {
    const root = merge([{ path: "a", content: "x" }], [link("b", "a"), link("c", "a"), { path: ".wh.a" }])
    expect(paths(root)).toEqual(["b", "c"])
    expect(findNode(root, ["b"])).toBe(findNode(root, ["c"]))
    expect(findNode(root, ["b"])).toMatchObject({ kind: "file", size: 1, part: 0 })
  })

  test("I1: to nothing, to a directory, or through a lower symlink are refused", async () => {
    expect(await codeOf(() => merge([], [link("b", "a")]))).toBe("link-target")
    expect(await codeOf(() => merge([{ path: "d/" }], [link("b", "d")]))).toBe("link-target")
    expect(await codeOf(() => merge([{ path: "d/x" }, { path: "l", target: "d" }], [link("b", "l/x")]))).toBe(
      "link-target",
    )
  })
})

describe("many layers", () => {
  test("60 layers that add, replace, hide and link", () => {
    const layers = Array.from({ length: 60 }, (_, i): PackFile[] => [
      { path: `own/${i}`, content: `${i}` },
      { path: "top", content: `${i}`, mtime: i },
      ...(i > 0
        ? [
            { path: `own/.wh.${i - 1}` },
            { path: `linked/${i}`, type: "link" as const, target: `own/${i - 1}` },
          ]
        : []),
    ])
    const root = merge(...layers)
    expect(Object.keys(Object.fromEntries(findNode(root, ["own"])?.children ?? []))).toEqual(["59"])
    expect(findNode(root, ["top"])).toMatchObject({ part: 59, mtime: 59 })
    expect(findNode(root, ["linked"])?.children?.size).toBe(59)
    for (let i = 1; i < 60; i++) expect(findNode(root, ["linked", `${i}`])).toMatchObject({ part: i - 1 })
  })
})
