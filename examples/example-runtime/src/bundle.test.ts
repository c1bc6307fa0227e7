import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { build, type Options } from "tsup"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import config from "../tsup.config.js"

/** What esbuild tells of a chunk. */
interface Chunk {
  readonly bytes: number
  readonly imports: readonly { readonly path: string; readonly kind: string; readonly external?: boolean }[]
  readonly inputs: Readonly<Record<string, unknown>>
}

const folder = mkdtempSync(join(tmpdir(), "bundle-"))
let chunks: Readonly<Record<string, Chunk>>

beforeAll(async () => {
  const entry = { main: fileURLToPath(new URL("main.ts", import.meta.url)) }
  await build({ ...(config as Options), entry, outDir: folder, silent: true, metafile: true, config: false })
  const { outputs } = JSON.parse(readFileSync(join(folder, "metafile-esm.json"), "utf8"))
  chunks = outputs
}, 240_000)
afterAll(() => rmSync(folder, { recursive: true }))

/** What is loaded before a command's own code begins: the chunks of its file, and all that they import. */
function loadedBy(command: string): { inputs: string[]; bytes: number } {
  const seen = new Set<string>()
  const visit = (path: string) => {
    if (seen.has(path)) return
    seen.add(path)
    for (const { path: next, kind, external } of chunks[path]?.imports ?? [])
      if (kind === "import-statement" && !external) visit(next)
  }
  for (const path of Object.keys(chunks))
    if (Object.keys(chunks[path]?.inputs ?? {}).some(input => input.endsWith(`src/${command}`))) visit(path)
  const all = [...seen].map(path => chunks[path] as Chunk)
  return {
    inputs: all.flatMap(({ inputs }) => Object.keys(inputs)),
    bytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
  }
}

describe("a command loads no more than it needs", () => {
  test.each([
    ["main.ts", 65_000],
    ["commands/version.ts", 10_000],
    ["commands/images/list.ts", 100_000],
    ["commands/images/pull.ts", 350_000],
  ])("%s", (command, most) => {
    expect(loadedBy(command).bytes).toBeLessThan(most)
  })

  test("nothing of a hypervisor is behind a pull, and nothing that reads layers or starts programs", () => {
    const { inputs } = loadedBy("commands/images/pull.ts")
    expect(inputs.filter(input => input.endsWith("registry-client.ts"))).toHaveLength(1)
    expect(inputs.filter(input => /\/(vmm|hypervisor|virtio-devices|erofs|layer)\//.test(input))).toEqual([])
    expect(inputs.filter(input => /(credential-helper|layer-child)\.ts$/.test(input))).toEqual([])
  })

  test("of undici only what the registry client asks of it", () => {
    const { inputs } = loadedBy("commands/images/pull.ts")
    const undici = inputs.filter(input => input.includes("/undici/lib/"))
    expect(undici.some(input => input.endsWith("/dispatcher/agent.js"))).toBe(true)
    expect(undici.filter(input => /\/(mock|cache|interceptor|websocket|cookies)\//.test(input))).toEqual([])
  })

  test("a start from the store goes without an HTTP client", () => {
    const { inputs } = loadedBy("commands/run.ts")
    expect(inputs.some(input => input.endsWith("runtime/src/sandbox.ts"))).toBe(true)
    expect(inputs.filter(input => input.includes("/undici/"))).toEqual([])
  })
})
