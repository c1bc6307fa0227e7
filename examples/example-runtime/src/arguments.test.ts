import { describe, expect, test } from "vitest"
import { parseDisk, parseMount, parseVolume } from "./arguments.js"

describe("--volume", () => {
  test.each([
    ["/a:/b", { readOnly: false }],
    ["/a:/b:rw", { readOnly: false }],
    ["/a:/b:ro", { readOnly: true }],
    ["/a:/b:dax", { readOnly: false, dax: true }],
    ["/a:/b:ro,dax", { readOnly: true, dax: true }],
  ])("takes %j", (text, words) => {
    expect(parseVolume(text, [])).toEqual([{ source: "/a", target: "/b", ...words }])
  })

  test.each(["/a", ":/b", "/a:", "/a:/b:", "/a:/b:x", "/a:/b:ro,", "/a:/b:ro:dax"])("refuses %j", text => {
    expect(() => parseVolume(text, [])).toThrow(/^invalid --volume/)
  })
})

describe("--mount", () => {
  test("is docker's, with what ours has more", () => {
    const folder = parseMount("type=bind,source=/a,target=/b,readonly,locks,acl,dax", [])
    expect(folder).toEqual([
      { type: "bind", source: "/a", target: "/b", readOnly: true, locks: true, acl: true, dax: true },
    ])
    expect(parseMount("type=disk,src=/d.img,dst=/d,fstype=erofs,format=raw,direct", folder)).toEqual([
      ...folder,
      { type: "disk", source: "/d.img", target: "/d", fsType: "erofs", format: "raw", direct: true },
    ])
  })

  test.each([
    "source=/a",
    "target=/b",
    "source=/a,target=/b,size=1",
    "source=/a,target=/b,readonly=1",
    "source=/a,target=/b,constructor",
    "source=/a,target=/b,constructor=1",
    "source=,target=/b",
    "",
  ])("refuses %j", text => {
    expect(() => parseMount(text, [])).toThrow(/^invalid --mount/)
  })
})

describe("--disk", () => {
  test("is raw unless it says otherwise", () => {
    const first = parseDisk("/a.img:/a", [])
    expect(first).toEqual([{ type: "disk", source: "/a.img", target: "/a" }])
    expect(parseDisk("/b:/c:ro,qcow2", first)).toEqual([
      ...first,
      { type: "disk", source: "/b", target: "/c", readOnly: true, format: "qcow2" },
    ])
    expect(parseDisk("/b:/c:raw,direct,rw", [])).toEqual([
      { type: "disk", source: "/b", target: "/c", readOnly: false, format: "raw", direct: true },
    ])
  })

  test.each(["/a", ":/a", "/a:", "/a:/b:", "/a:/b:vmdk", "/a:/b:constructor", "/a:/b:ro:rw"])(
    "refuses %j",
    text => {
      expect(() => parseDisk(text, [])).toThrow(/^invalid --disk/)
    },
  )
})
