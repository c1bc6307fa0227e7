import { readFileSync } from "node:fs"
import { join } from "node:path"
import { expect, test } from "vitest"

const root = join(import.meta.dirname ?? ".", "..")

test("the README's example is the tested file it names", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8")
  const blocks = [...readme.matchAll(/<!-- (\S+) -->\n```ts\n([\s\S]*?)```/g)]
  expect(blocks.map(([, file]) => file)).toEqual(["examples/run-code/src/run-code.ts"])
  for (const [, file, text] of blocks) expect(text).toBe(readFileSync(join(root, file as string), "utf8"))
})
