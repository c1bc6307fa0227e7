import { createHash, randomBytes } from "node:crypto"
import { expect, test } from "vitest"
import { codeOf } from "../test-support/images.js"
import { ByteReader, bytesOf } from "./bytes.js"
import { type Contents, ContentsWriter, eachContent, readContents, writeContents } from "./contents.js"

const BLOCK = 4096
const CHUNK = 16 * BLOCK

/** What is collected of one content that comes in pieces. */
function collected(content: Buffer, piece = content.length): { contents: Contents; key: string | undefined } {
  const writer = new ContentsWriter()
  writer.begin(7, content.length)
  for (let at = 0; at < content.length; at += piece) writer.append(content.subarray(at, at + piece))
  const key = writer.end()
  return { contents: writer.finish(), key }
}

const read = (contents: Contents, blocks: number) =>
  readContents(
    new ByteReader(
      bytesOf(out => writeContents(out, contents)),
      0,
    ),
    blocks,
  )

test.each([1, BLOCK - 1, BLOCK, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])(
  "%i bytes have the same hashes, in whatever pieces they come",
  size => {
    const content = randomBytes(size)
    const { contents, key } = collected(content)
    for (const piece of [1000, 65_536, 100_000]) expect(collected(content, piece)).toEqual({ contents, key })
    const [only, ...others] = eachContent(contents)
    expect(others).toEqual([])
    expect(only).toMatchObject({ block: 7, blocks: Math.ceil(size / BLOCK) })
    expect(only?.hashes).toHaveLength(Math.ceil(size / CHUNK))
    expect(read(contents, 7 + Math.ceil(size / BLOCK))).toEqual(contents)
  },
)

test("one other byte is another hash of its chunk and no other, and another key", () => {
  const before = randomBytes(3 * CHUNK)
  const after = Buffer.from(before)
  after[CHUNK] = 1 + (after[CHUNK] as number)
  const [one, two] = [collected(before), collected(after)]
  const changed = [...one.contents].map((word, i) => word !== two.contents[i])
  expect(changed).toEqual([false, false, false, true, false])
  expect(one.key).not.toBe(two.key)
})

test("a file that is the list of another one's digests is not taken for it", () => {
  const content = randomBytes(128 * CHUNK)
  const digests = Array.from({ length: 128 }, (_, i) =>
    createHash("sha256")
      .update(content.subarray(i * CHUNK, (i + 1) * CHUNK))
      .digest(),
  )
  const list = Buffer.concat(digests)
  expect(list.length).toBe(BLOCK)
  expect(collected(content).key).not.toBe(collected(list).key)
})

test("what is taken back is gone, however many there are", () => {
  const writer = new ContentsWriter()
  for (let i = 0; i < 2000; i++) {
    writer.begin(i, 1)
    writer.append(Buffer.from([i]))
    expect(writer.end()).toBeUndefined()
    if (i % 2) writer.drop()
  }
  expect([...eachContent(writer.finish())].map(({ block }) => block)).toEqual(
    Array.from({ length: 1000 }, (_, i) => 2 * i),
  )
})

test.each([
  ["without blocks", [1, 0]],
  ["that overlap", [0, 2, 5, 1, 1, 5]],
  ["out of order", [4, 1, 5, 0, 1, 5]],
  ["behind the part's end", [9, 2, 5]],
  ["far behind it", [0xffffffff, 0xffffffff, 5]],
  ["that are cut off", [0, 17, 5]],
  ["without a number of blocks", [0]],
])("I14: refuses contents %s", async (_name, words) => {
  expect(await codeOf(() => read(Uint32Array.from(words), 10))).toBe("index-corrupt")
})

test("I14: refuses more words than there are", async () => {
  const bytes = bytesOf(out => out.u32(0xffffffff))
  expect(await codeOf(() => readContents(new ByteReader(bytes, 0), 10))).toBe("index-corrupt")
})
