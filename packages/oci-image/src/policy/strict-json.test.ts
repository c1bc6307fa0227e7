import { describe, expect, test } from "vitest"
import { ImageError } from "../errors.js"
import { type PlacedJson, parseStrictJson } from "./strict-json.js"

const refuse = ({ line, path }: { line: number; path: string }, why: string) =>
  new ImageError("policy-invalid", `${line}|${path}|${why}`)

function parse(text: string): PlacedJson {
  return parseStrictJson(Buffer.from(text), refuse)
}

/** What `JSON.parse` would have made of it. */
function plain({ value }: PlacedJson): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, one]) => [key, plain(one)]))
  return Array.isArray(value) ? value.map(plain) : value
}

function outcome(read: () => unknown): { value: unknown } | undefined {
  try {
    return { value: read() }
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof ImageError) return undefined
    throw error
  }
}

function inner({ value }: PlacedJson, key: string): PlacedJson {
  return (value as ReadonlyMap<string, PlacedJson>).get(key) as PlacedJson
}

/** A small generator of numbers that are the same in every run. */
function numbers(seed: number): (below: number) => number {
  let state = seed
  return below => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

const SEEDS = [
  '{"default":"deny","rules":[{"images":"a/*","digests":["x","y"]},{"n":-1.5e+3}],"t":true,"f":false,"z":null}',
  '[1, 0, -0, 0.1, 1e5, 12E-2, "\\u00e9\\n\\"\\\\/", "é", [], {}, [[]], {"a":{"b":{}}}]',
  ' \t\n\r "text" ',
]
const PIECES = [
  '"',
  "\\",
  "{",
  "}",
  "[",
  "]",
  ",",
  ":",
  "0",
  "1",
  "-",
  "+",
  ".",
  "e",
  "true",
  "nul",
  " ",
  "\n",
  "\u0000",
  "\u00a0",
  "\\u12",
  "\\ud800",
]

describe("strict JSON", () => {
  test("is what JSON.parse takes, and means the same, except for names that are there twice", () => {
    const below = numbers(1)
    let accepted = 0
    for (let i = 0; i < 6000; i++) {
      let text = SEEDS[below(SEEDS.length)] as string
      for (let changes = below(3); changes >= 0; changes--) {
        const at = below(text.length + 1)
        text = `${text.slice(0, at)}${PIECES[below(PIECES.length)]}${text.slice(at + below(3))}`
      }
      const [strict, usual] = [outcome(() => plain(parse(text))), outcome(() => JSON.parse(text))]
      if (strict) accepted++
      const isTwice = !strict && usual && /twice/.test(String(outcomeOf(text)))
      expect({ text, ...strict }).toEqual({ text, ...(isTwice ? {} : usual) })
    }
    expect(accepted).toBeGreaterThan(500)
  })

  test("says where something is, by line and path", () => {
    const document = parse('{\n "a": [\n  1,\n  {"b c": 2}\n ]\n}')
    const list = inner(document, "a")
    const [first, second] = list.value as [PlacedJson, PlacedJson]
    expect([list.line, first.line, first.path]).toEqual([2, 3, "a[0]"])
    expect([second.line, second.path, inner(second, "b c").path]).toEqual([4, "a[1]", 'a[1]."b c"'])
    expect(() => parse('[1,\n\n{"x":1,"x":2}]')).toThrow("3|[1].x|is there twice")
  })

  test("keeps names such as __proto__ as names", () => {
    const { value } = parse('{"__proto__":{"polluted":1},"constructor":2}')
    expect([...(value as Map<string, PlacedJson>).keys()]).toEqual(["__proto__", "constructor"])
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined()
  })

  test("takes long texts and lists, and no deep ones", () => {
    expect(parse(`"${"x".repeat(900_000)}"`).value).toHaveLength(900_000)
    expect(parse(`[${"1,".repeat(200_000)}1]`).value).toHaveLength(200_001)
    expect(parse(`"${"\\n".repeat(300_000)}"`).value).toHaveLength(300_000)
    expect(() => parse(`${"[".repeat(500_000)}`)).toThrow("nested more than 16 deep")
    expect(() => parse(`"${"x".repeat(900_000)}`)).toThrow("is not JSON here")
  })
})

function outcomeOf(text: string): unknown {
  try {
    return parse(text)
  } catch (error) {
    return error
  }
}
