import { describe, expect, test } from "vitest"
import { familiarName, isSameName, normalizeName, parseReference } from "./references.js"
import { parseSource } from "./sources/parse.js"
import { codeOf } from "./test-support/images.js"

const HEX = "0123456789abcdef".repeat(4)

describe("image names", () => {
  test.each([
    ["debian", "docker.io/library/debian:latest"],
    ["debian:12", "docker.io/library/debian:12"],
    ["library/debian", "docker.io/library/debian:latest"],
    ["docker.io/debian", "docker.io/library/debian:latest"],
    ["index.docker.io/library/debian", "docker.io/library/debian:latest"],
    ["library/a/b", "docker.io/library/a/b:latest"],
    ["my_org/some-app.v2:1.0-rc_1", "docker.io/my_org/some-app.v2:1.0-rc_1"],
    ["localhost/app", "localhost/app:latest"],
    ["Host/app", "Host/app:latest"],
    ["host.example/app", "host.example/app:latest"],
    ["host.example:5000/a/b/c:t", "host.example:5000/a/b/c:t"],
    ["[::1]:5000/app", "[::1]:5000/app:latest"],
    [`app@sha256:${HEX}`, `docker.io/library/app@sha256:${HEX}`],
    [`app:1@sha256:${HEX}`, "docker.io/library/app:1"],
  ])("%s is stored as %s", (text, name) => {
    expect(normalizeName(text)).toBe(name)
    expect(normalizeName(name)).toBe(name)
    expect(normalizeName(familiarName(name))).toBe(name)
  })

  test.each([
    ["docker.io/library/debian:latest", "debian:latest"],
    ["docker.io/my/app:1", "my/app:1"],
    ["docker.io/library/a/b:1", "library/a/b:1"],
    ["host.example/library/app:1", "host.example/library/app:1"],
  ])("%s is shown as %s", (name, shown) => {
    expect(familiarName(name)).toBe(shown)
  })

  test("knows two spellings of one name", () => {
    expect(isSameName("debian", "docker.io/library/debian:latest")).toBe(true)
    expect(isSameName("debian:12", "debian:13")).toBe(false)
    expect(isSameName("Not A Name", "Not A Name")).toBe(true)
    expect(isSameName("Not A Name", "nor this one")).toBe(false)
  })

  test("takes a name apart", () => {
    expect(parseReference(`host.example:5000/a/b:1@sha256:${HEX}`)).toEqual({
      registry: "host.example:5000",
      repository: "a/b",
      tag: "1",
      digest: `sha256:${HEX}`,
    })
    expect(parseReference("a/b")).toEqual({ registry: "docker.io", repository: "a/b" })
  })

  test.each([
    ["host.example:99999/app", "HOST[:PORT]"],
    ["host..example/app", "HOST[:PORT]"],
    ["host.example/", "names no repository"],
    ["Debian", "lower case"],
    [HEX, "an image's id"],
    ["a__b___c", "parts are letters"],
    ["a:.b", "a tag is at most"],
    ["a".repeat(256), "longer than"],
  ])("says what is wrong with %s", (text, why) => {
    expect(() => normalizeName(text)).toThrow(why)
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
