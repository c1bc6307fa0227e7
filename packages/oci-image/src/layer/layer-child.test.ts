import { execFileSync } from "node:child_process"
import { mkdirSync, readdirSync, writeFileSync } from "node:fs"
import { open } from "node:fs/promises"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, describe, expect, test } from "vitest"
import { digestOf } from "../digest.js"
import { isImageError } from "../errors.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { VerifiedBlob } from "../sources/blob.js"
import { childrenOf } from "../test-support/children.js"
import { codeOf, plainLayer, TestLayout, tarOf, temporaryFolder } from "../test-support/images.js"
import { PartMaker } from "../test-support/layers.js"
import { readLayerApart } from "./read-layer-apart.js"

const MIB = 2 ** 20
/** To fill a heap takes two seconds, and many more where the machine has much else to do. */
const PATIENCE_MS = 120_000
const layer = tarOf([{ path: "a", content: "x".repeat(5 * MIB) }])

/** Code of a script that stands in for the process that reads layers. */
async function withScript(
  script: string,
  options: { stall?: number; signal?: AbortSignal; blob?: Buffer } = {},
): Promise<Error | undefined> {
  const folder = temporaryFolder()
  const entry = join(folder, "code", "script.mjs")
  mkdirSync(join(folder, "code"))
  writeFileSync(
    entry,
    `import fs from "node:fs"; const out = text => fs.writeSync(5, text + "\\n");\n${script}`,
  )
  const data = await open(join(folder, "data"), "wx+")
  const index = await open(join(folder, "index"), "wx+")
  const { blob = layer, signal, stall = PATIENCE_MS } = options
  const source = {
    async *open() {
      for (let at = 0; at < blob.length; at += 65536) yield blob.subarray(at, at + 65536)
    },
  }
  const request = { digest: digestOf(layer), size: layer.length }
  try {
    await readLayerApart({
      blob: new VerifiedBlob(source, request, "layer", signal),
      size: layer.length,
      task: { compression: "none", limits: DEFAULT_LIMITS },
      data,
      index,
      signal,
      entry,
      patience: { stall, total: 2 * stall },
    })
    return undefined
  } catch (error) {
    return error as Error
  } finally {
    await data.close()
    await index.close()
    expect(childrenOf(process.pid, "--allow-fs-read")).toEqual([])
  }
}

const READ_ALL = `process.stdin.resume(); process.stdin.on("end", () => { DONE })`

describe("I4: a process that an image took over is not believed", () => {
  const scripts: readonly (readonly [string, string, RegExp])[] = [
    ["no result", "process.exit()", /gave no result/],
    ["a result that is no JSON", `out("{"); process.exit()`, /gave no result/],
    ["a result of another shape", `out("[]"); process.exit()`, /gave no result/],
    ["no number for its memory", `out("{}"); process.exit()`, /makes no sense/],
    [
      "an unknown code",
      `out('{"peak":1,"error":{"code":"x","message":"y","fields":{}}}'); process.exit()`,
      /makes no sense/,
    ],
    [
      "a code of another part",
      `out('{"peak":1,"error":{"code":"digest-mismatch","message":"y","fields":{}}}'); process.exit()`,
      /makes no sense/,
    ],
    ["a result of many megabytes", `for (;;) out("x".repeat(60000))`, /gave a result that is too long/],
    ["success without the layer", `out('{"peak":1}'); process.exit()`, /before all of it was there/],
    ["a failing end", `out('{"peak":1}'); process.exit(3)`, /ended with code 3/],
    ["an exception", `throw new Error("out\\x1b[2J")`, /ended with code 1/],
    ["a death by signal", `process.kill(process.pid, "SIGKILL")`, /killed by SIGKILL/],
    ["too much memory", "const all = []; for (;;) all.push([...Array(1000).keys()])", /ran out of memory/],
    [
      "megabytes on stderr",
      `for (let i = 0; i < 100; i++) console.error("x".repeat(1e5)); process.exit(2)`,
      /ended with code 2/,
    ],
  ]

  test.each(scripts)(
    "%s",
    async (_name, script, message) => {
      const error = await withScript(script)
      expect(error).toMatchObject({ code: "layer-process", message: expect.stringMatching(message) })
      expect(JSON.stringify(isImageError(error) && error.fields).length).toBeLessThan(500)
    },
    2 * PATIENCE_MS,
  )

  test("its message comes without what moves a cursor, its fields without what is none", async () => {
    const failure = {
      code: "tar-header",
      message: "\x1b[2Jx",
      fields: { at: 7, "a b": 1, list: [], long: "x".repeat(999) },
    }
    const error = await withScript(
      READ_ALL.replace("DONE", `out(${JSON.stringify(JSON.stringify({ peak: 1, error: failure }))})`),
    )
    expect(error).toMatchObject({ code: "tar-header", message: "?[2Jx", fields: { at: 7 } })
    expect(Object.keys((error as unknown as { fields: object }).fields)).toEqual(["at"])
  })

  test("I8: a layer of other content is blamed before the process is", async () => {
    const blob = Buffer.from(layer)
    blob[5000] = 7
    expect(await withScript("process.exit(1)", { blob })).toMatchObject({ code: "digest-mismatch" })
  })
})

describe("a process that makes others wait", () => {
  test("is killed when it does not take the layer", async () => {
    expect(await withScript("setInterval(() => 0, 1000)", { stall: 300 })).toMatchObject({
      code: "layer-process",
      message: expect.stringMatching(/takes too long/),
    })
  })

  test("is killed when it does not come to an end", async () => {
    expect(await withScript(READ_ALL.replace("DONE", "for (;;);"), { stall: 1000 })).toMatchObject({
      code: "layer-process",
      message: expect.stringMatching(/takes too long/),
    })
  })

  test("is killed when the caller gives up", async () => {
    const abort = new AbortController()
    const reading = withScript("setInterval(() => 0, 1000)", { signal: abort.signal })
    await sleep(200)
    abort.abort(new Error("enough"))
    expect(await reading).toMatchObject({ message: "enough" })
  })

  test("is not started when the caller gave up before", async () => {
    const signal = AbortSignal.abort(new Error("enough"))
    expect(await withScript("process.exit()", { signal })).toMatchObject({ message: "enough" })
  })
})

describe("a process that cannot be started", () => {
  const execPath = process.execPath
  afterEach(() => {
    process.execPath = execPath
  })

  test.each([
    ["/nonexistent/node", /cannot start .* ENOENT/],
    ["/usr/bin/an-app", /needs Node/],
  ])("is an error of its own, not a fall-back: %s", async (path, message) => {
    process.execPath = path
    expect(await withScript("")).toMatchObject({
      code: "layer-process",
      message: expect.stringMatching(message),
    })
  })
})

test("the built package finds the script beside it", async () => {
  const folder = temporaryFolder()
  const layout = new TestLayout(join(folder, "image"))
  layout.image([plainLayer([{ path: "a", content: "x" }])])
  const built = new URL("../../dist/index.js", import.meta.url)
  const script = `
    const { ImageStore } = await import(${JSON.stringify(built.href)})
    const store = await ImageStore.open("store")
    console.log((await store.load("oci:image")).disk().size)`
  const options = { cwd: folder, encoding: "utf8" } as const
  const args = ["--input-type=module", "-e", script]
  expect(execFileSync(process.execPath, args, options)).toBe("8192\n")
})

describe("what the process may do", () => {
  test.each([
    ["read a file", `fs.readFileSync("/etc/passwd")`],
    ["write a file", `fs.writeFileSync("/tmp/ts-vmm-escaped", "x")`],
    ["list a folder", `fs.readdirSync("/")`],
    ["start a process", `(await import("node:child_process")).execFileSync("/bin/true")`],
    ["start a worker", `new (await import("node:worker_threads")).Worker("0", { eval: true })`],
  ])("it cannot %s", async (_name, script) => {
    const error = await withScript(
      `try { ${script}; process.exit(9) } catch (e) { process.exit(e.code === "ERR_ACCESS_DENIED" ? 8 : 7) }`,
    )
    expect(error?.message).toMatch(/ended with code 8/)
  })

  test("it has no environment and stands in the root", async () => {
    const error = await withScript(
      `process.exit(Object.keys(process.env).length === 0 && process.cwd() === "/" ? 8 : 7)`,
    )
    expect(error?.message).toMatch(/ended with code 8/)
  })
})

test("the store is as it was before when a process fails", async () => {
  const maker = await PartMaker.open(temporaryFolder())
  expect(await codeOf(() => maker.make({ blob: Buffer.from("rubbish".repeat(500)) }))).toBe("tar-header")
  for (const folder of ["tmp", "parts"]) expect(readdirSync(maker.folder.top(folder))).toEqual([])
})
