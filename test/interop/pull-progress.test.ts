// What `pull` shows on a terminal, in a pipe, and to programs.
import { execFile } from "node:child_process"
import { createReadStream, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { createServer, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { spawn } from "@lydell/node-pty"
import { packImage } from "@ts-vmm/oci-image"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { Screen } from "./screen.js"

const CLI = fileURLToPath(new URL("../../examples/example-runtime/dist/main.js", import.meta.url))
const LAYERS = 3
const COLUMNS = 100
/** What goes from left to right and up to the bars again, and no sequence else. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const HARMLESS = /^\x1b\[(?:\?(?:7|25)[hl]|\d*[AGJK])$/
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROLS = /\x1b(?:\[[0-?]*[ -/]*[@-~]|.)|[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]/g

const folder = mkdtempSync(join(tmpdir(), "pull-progress-"))
let server: Server
let name: string
let layers: string[]
/** Answers instead of the registry; true when it did. */
let fault: (url: string, response: ServerResponse) => boolean = () => false

beforeAll(async () => {
  const files = (layer: number) => [{ path: `file-${layer}`, content: Buffer.alloc(300_000, `${layer}`) }]
  const all = Array.from({ length: LAYERS }, (_, layer) => ({ files: files(layer) }))
  const { digest } = await packImage(join(folder, "layout"), { layers: all })
  const blob = (hex: string) => join(folder, "layout/blobs/sha256", hex)
  const manifest = JSON.parse(readFileSync(blob(digest.slice(7)), "utf8"))
  layers = manifest.layers.map((layer: { digest: string }) => layer.digest.slice(7, 19))
  server = createServer(({ method, url = "" }, response) => {
    if (fault(url, response)) return
    const hex = url.endsWith("/1") ? digest.slice(7) : (url.split("sha256:")[1] ?? "")
    const type = url.includes("/manifests/") ? manifest.mediaType : "application/octet-stream"
    const headers = { "content-type": type, "content-length": statSync(blob(hex)).size }
    response.writeHead(200, { ...headers, "docker-content-digest": `sha256:${hex}` })
    if (method === "HEAD") response.end()
    else createReadStream(blob(hex)).pipe(response)
  })
  await new Promise<void>(resolve => server.listen(0, "127.0.0.1", resolve))
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  name = `${host}/app:1`
  writeFileSync(join(folder, "registries.json"), JSON.stringify({ hosts: { [host]: { plainHttp: true } } }))
})

afterAll(() => {
  server.closeAllConnections()
  server.close()
  rmSync(folder, { recursive: true, force: true })
})

let stores = 0
/** An environment with a store of its own. */
function place(): Record<string, string> {
  const [TS_VMM_IMAGE_DIR, TS_VMM_STATE_DIR] = [join(folder, `store-${++stores}`), join(folder, "state")]
  const TS_VMM_REGISTRIES = join(folder, "registries.json")
  const own = { TS_VMM_IMAGE_DIR, TS_VMM_STATE_DIR, TS_VMM_REGISTRIES, DOCKER_CONFIG: folder }
  return { ...process.env, ...own } as Record<string, string>
}

/**
 * Says how the program ended, and keeps the terminal until that was read: what is in it yet 200 ms after its program's end,
 * node-pty throws away.
 */
const AND_WAIT = '"$@"; echo "ended with $?"; read -r _'
const ENDED = /ended with (\d+)\r\n/

/** Pulls on a terminal of its own. @returns what was written to it, and what it shows at the end */
async function onTerminal(env: Record<string, string>, ...options: string[]) {
  const terminal = spawn("sh", ["-c", AND_WAIT, "sh", process.execPath, CLI, "pull", ...options, name], {
    ...{ cols: COLUMNS, rows: 30 },
    env: { ...env, TERM: "xterm" },
  })
  const exited = new Promise(resolve => terminal.onExit(resolve))
  let all = ""
  const end = await new Promise<RegExpExecArray>(resolve =>
    terminal.onData(data => {
      all += data
      const found = ENDED.exec(all)
      if (found) resolve(found)
    }),
  )
  terminal.write("\r")
  await exited
  const raw = all.slice(0, end.index)
  const code = Number(end[1])
  const screen = new Screen(COLUMNS)
  screen.write(raw)
  return { code, raw, lines: screen.lines }
}

const run = promisify(execFile)
/** Pulls with pipes. */
const piped = (...options: string[]) =>
  run(process.execPath, [CLI, "pull", ...options, name], { env: place() })

describe("on a terminal", () => {
  test("there is a bar for each layer, and then what was done", async () => {
    const env = place()
    const { code, lines } = await onTerminal(env)
    expect(code).toBe(0)
    const bars = lines.slice(0, LAYERS)
    expect(bars.map(line => line.slice(0, 12))).toEqual(layers)
    for (const line of bars)
      expect(line).toMatch(/^[0-9a-f]{12}: Pull complete {2}=+ \d+(\.\d+)?kB\/\d+(\.\d+)?kB$/)
    expect(lines.slice(LAYERS)).toEqual([
      expect.stringMatching(/^Digest: sha256:[0-9a-f]{64}$/),
      `Status: Downloaded newer image for ${name}`,
      name,
    ])
    expect((await onTerminal(env)).lines).toEqual([lines[3], `Status: Image is up to date for ${name}`, name])
  })

  test("nothing steers it but the bars, and the cursor is there again at the end", async () => {
    const { raw } = await onTerminal(place())
    const controls = raw.match(CONTROLS) ?? []
    expect(controls.filter(one => !HARMLESS.test(one))).toEqual([])
    expect(controls.filter(one => one.startsWith("\x1b[?25")).at(-1)).toBe("\x1b[?25h")
    expect(controls.filter(one => one.startsWith("\x1b[?7")).at(-1)).toBe("\x1b[?7h")
  })

  test("a registry's words cannot steer it", async () => {
    fault = (url, response) => {
      if (!url.includes("/blobs/")) return false
      const errors = [{ code: "DENIED", message: "\x1b]0;title\x07\x1b[2J\u009b31m" }]
      response.writeHead(403, { "content-type": "application/json" }).end(JSON.stringify({ errors }))
      return true
    }
    const { code, raw, lines } = await onTerminal(place())
    fault = () => false
    expect(code).toBe(125)
    expect((raw.match(CONTROLS) ?? []).filter(one => !HARMLESS.test(one))).toEqual([])
    expect(lines.at(-1)).toMatch(/^example-runtime: /)
  })

  test("-q shows the digest and nothing else", async () => {
    const { lines, raw } = await onTerminal(place(), "-q")
    expect(lines).toEqual([expect.stringMatching(/^sha256:[0-9a-f]{64}$/)])
    expect(raw.match(CONTROLS)).toBeNull()
  })
})

describe("in a pipe", () => {
  test("there is a plain line for each layer", async () => {
    const { stdout, stderr } = await piped()
    expect(stderr.trim().split("\n").sort()).toEqual(layers.map(layer => `${layer}: Pull complete`).sort())
    expect(stdout).toMatch(/^Digest: sha256:[0-9a-f]{64}\nStatus: Downloaded newer image for .+\n.+\n$/)
  })

  test("--json tells each layer's way as events, and what was done as one object", async () => {
    const { stdout, stderr } = await piped("--json")
    const events = stderr
      .trim()
      .split("\n")
      .map(line => JSON.parse(line))
    for (const position of layers.keys()) {
      const states = events.filter(event => event.position === position).map(event => event.state)
      expect(states.filter((state, at) => state !== states[at - 1])).toEqual(["waiting", "reading", "done"])
    }
    expect(JSON.parse(stdout)).toMatchObject({ name, new: true })
  })

  test("-q writes the digest only", async () => {
    const { stdout, stderr } = await piped("-q")
    expect([stdout.length, stderr]).toEqual([72, ""])
  })
})
