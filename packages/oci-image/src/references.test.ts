import { describe, expect, test } from "vitest"
import { normalizeName, parseReference } from "./references.js"
import { parseSource } from "./sources/open.js"
import { codeOf } from "./test-support/images.js"

const HEX = "0123456789abcdef".repeat(4)

describe("image names", () => {
  test.each([
    ["debian", "debian:latest"],
    ["debian:12", "debian:12"],
    ["library/debian", "library/debian:latest"],
    ["my_org/some-app.v2:1.0-rc_1", "my_org/some-app.v2:1.0-rc_1"],
    ["localhost/app", "localhost/app:latest"],
    ["host.example/app", "host.example/app:latest"],
    ["host.example:5000/a/b/c:t", "host.example:5000/a/b/c:t"],
    ["[::1]:5000/app", "[::1]:5000/app:latest"],
    [`app@sha256:${HEX}`, `app@sha256:${HEX}`],
    [`app:1@sha256:${HEX}`, "app:1"],
  ])("%s is stored as %s", (text, name) => {
    expect(normalizeName(text)).toBe(name)
    expect(normalizeName(name)).toBe(name)
  })

  test("takes a name apart", () => {
    expect(parseReference(`host.example:5000/a/b:1@sha256:${HEX}`)).toEqual({
      registry: "host.example:5000",
      repository: "a/b",
      tag: "1",
      digest: `sha256:${HEX}`,
    })
    expect(parseReference("a/b")).toEqual({ repository: "a/b" })
  })

  test.each([
    "",
    ":",
    "a:",
    "A",
    "a//b",
    "/a",
    "a/",
    "../a",
    "a b",
    "a:b:c",
    "a:..",
    "-a",
    "a\n",
    `a:${"t".repeat(129)}`,
    "x".repeat(256),
    "host.example/",
  ])("refuses %j", async text => {
    expect(await codeOf(() => normalizeName(text))).toBe("reference-invalid")
  })

  test.each(["a@", "a@sha256:abc", `a@sha512:${HEX}${HEX}`, `a@sha256:${HEX.toUpperCase()}`])(
    "refuses the digest of %s",
    async text => {
      expect(await codeOf(() => normalizeName(text))).toBe("digest-invalid")
    },
  )
})

test("tells sources from names", () => {
  expect(parseSource("oci:dir:tag:1")).toEqual({ kind: "oci", path: "dir", tag: "tag:1" })
  expect(parseSource("oci-archive:a.tar")).toEqual({ kind: "oci-archive", path: "a.tar" })
  expect(parseSource("docker-archive:/x/a.tar:debian:12")).toEqual({
    kind: "docker-archive",
    path: "/x/a.tar",
    tag: "debian:12",
  })
  expect(parseSource("rootfs:/a:b")).toEqual({ kind: "rootfs", path: "/a:b" })
  for (const path of ["/abs", "./rel", "../up", ".", ".."])
    expect(parseSource(path)).toEqual({ kind: "path", path })
  for (const name of ["debian", "debian:12", "oci", "oci:", ".hidden/x", "host.example/app"])
    expect(parseSource(name)).toBeUndefined()
})
