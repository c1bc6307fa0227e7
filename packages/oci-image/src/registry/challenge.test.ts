import { describe, expect, test } from "vitest"
import { parseChallenges } from "./challenge.js"

const read = (header: string) =>
  parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)])

describe("parseChallenges", () => {
  test.each([
    ["Basic", [["basic", {}]]],
    ['Basic realm="a b"', [["basic", { realm: "a b" }]]],
    ['Bearer realm="https://a/t",service=s', [["bearer", { realm: "https://a/t", service: "s" }]]],
    ['bEaReR REALM="x" , Service = "y"', [["bearer", { realm: "x", service: "y" }]]],
    ['Bearer scope="repository:a:pull,push"', [["bearer", { scope: "repository:a:pull,push" }]]],
    ['Bearer realm="a\\"b\\\\c"', [["bearer", { realm: 'a"b\\c' }]]],
    [
      'Basic realm=a, Bearer realm="b",service=c',
      [
        ["basic", { realm: "a" }],
        ["bearer", { realm: "b", service: "c" }],
      ],
    ],
  ])("RFC 9110, 11.6.1: %s", (header, expected) => {
    expect(read(header)).toEqual(expected)
  })

  test.each(["", ",", "=", '"', "é", "\0"])("I11: %j offers nothing", header => {
    expect(read(header)).toEqual([])
  })

  test("I11: an open quote ends the list", () => {
    expect(read('Basic realm=a, Bearer realm="b')).toEqual([
      ["basic", { realm: "a" }],
      ["bearer", {}],
    ])
  })

  test("I11: the first of equal names counts", () => {
    expect(read("Bearer realm=first,realm=second")).toEqual([["bearer", { realm: "first" }]])
  })

  test("I11: a header of any length is bounded", () => {
    expect(read("Basic, ".repeat(100_000))).toEqual([])
    expect(read(`Bearer realm="${'\\"'.repeat(100_000)}`)).toEqual([])
    expect(parseChallenges("Basic, ".repeat(1000))).toHaveLength(16)
  })
})
