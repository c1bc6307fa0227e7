import { mkdirSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { expect, test } from "vitest"
import { temporaryFolder } from "../test-support/images.js"
import { StoreFolder } from "./folder.js"

async function setUp() {
  const folder = new StoreFolder(join(temporaryFolder(), "store"))
  await folder.prepare()
  mkdirSync(folder.top("parts/x/y"), { recursive: true })
  const left = () => ["parts", "tmp"].map(name => readdirSync(folder.top(name)))
  return { folder, target: folder.top("parts/x"), left }
}

test("a folder is removed; one that is not there was not", async () => {
  const { folder, target, left } = await setUp()
  expect(await folder.removeFolder(target, async () => false)).toBe(true)
  expect(left()).toEqual([[], []])
  expect(await folder.removeFolder(target)).toBe(false)
})

test("a folder that somebody came to need goes back", async () => {
  const { folder, target, left } = await setUp()
  expect(await folder.removeFolder(target, async () => true)).toBe(false)
  expect(left()).toEqual([["x"], []])
})

test("so does one of which it could not be told", async () => {
  const { folder, target, left } = await setUp()
  const failing = async () => {
    throw new Error("cannot tell")
  }
  await expect(folder.removeFolder(target, failing)).rejects.toThrow("cannot tell")
  expect(left()).toEqual([["x"], []])
})
