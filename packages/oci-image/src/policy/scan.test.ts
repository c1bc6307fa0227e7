import { chmodSync, existsSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { type Digest, digestOf } from "../digest.js"
import { ImageError } from "../errors.js"
import { packImage } from "../pack/pack-image.js"
import { ImageStore } from "../store/store.js"
import { codeOf, readTar, temporaryFolder } from "../test-support/images.js"
import { folderAttachments, type ScanCommand, Scanner, scanRoot } from "./index.js"

const DIGEST: Digest = digestOf("image")
const SHELL: ScanCommand = { command: "/bin/sh", args: [], timeoutMs: 30_000, env: {} }

async function* stream(...chunks: Buffer[]): AsyncGenerator<Buffer> {
  yield* chunks
}

/** Runs a shell script as a scanner. */
function scan(script: string, more: Partial<Parameters<typeof scanRoot>[0]> = {}) {
  const root = stream(Buffer.alloc(300_000, "x"))
  return scanRoot({ ...SHELL, args: ["-c", script], root, image: "app:1", digest: DIGEST, ...more })
}

async function failure(
  script: string,
  more: Partial<Parameters<typeof scanRoot>[0]> = {},
): Promise<ImageError> {
  const error = await scan(script, more).catch(reason => reason)
  expect(error).toBeInstanceOf(ImageError)
  return error
}

/** Whether a process is there, and not only its entry. */
function isRunning(pid: string): boolean {
  try {
    return !/^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))
  } catch {
    return false
  }
}

async function gone(pid: string): Promise<void> {
  while (isRunning(pid)) await new Promise(resolve => setTimeout(resolve, 5))
}

describe("a program that looks into an image", () => {
  test("gets all of the root, its own environment and nothing else", async () => {
    const out = join(temporaryFolder(), "out")
    process.env["SCAN_TEST_SECRET"] = "inherited"
    const env = { OUT: out, LEVEL: "a b" }
    expect(
      await scan('/usr/bin/wc -c >"$OUT"; pwd >>"$OUT"; /usr/bin/env | /usr/bin/sort >>"$OUT"', { env }),
    ).toEqual({
      accepted: true,
    })
    const [count, folder, ...variables] = readFileSync(out, "utf8").trim().split("\n")
    expect([count, folder]).toEqual(["300000", "/"])
    expect(variables).toEqual(
      expect.arrayContaining(["LEVEL=a b", `OUT=${out}`, `TS_VMM_DIGEST=${DIGEST}`, "TS_VMM_IMAGE=app:1"]),
    )
    expect(variables.join()).not.toContain("inherited")
    expect(variables.some(one => /^(PATH|HOME)=/.test(one))).toBe(false)
  })

  test("need not read what it does not need", async () => {
    expect(await scan("exit 0")).toEqual({ accepted: true })
  })

  test("refuses by 1, with its first lines, escaped and bounded", async () => {
    const script = 'printf "\\033[2J bad\\r\\n\\n\\tworse \\303\\251\\n" >&2; exit 1'
    expect(await scan(script)).toEqual({ accepted: false, reason: "\\u001b[2J bad / worse \\u00e9" })
    const flood = 'i=0; while [ $i -lt 5000 ]; do echo "line $i of many" >&2; i=$((i+1)); done; exit 1'
    const verdict = await scan(flood)
    expect(verdict).toMatchObject({
      accepted: false,
      reason: expect.stringMatching(/^line 0 .*line 7 of many$/),
    })
    const line = await scan("printf '%1000s' x >&2; exit 1")
    expect(line).toEqual({ accepted: false, reason: "x" })
  })

  test.each([2, 127, 255])("accepts nothing by %i", async code => {
    const error = await failure(`echo because >&2; exit ${code}`)
    expect([error.code, error.message]).toEqual([
      "scan-failed",
      expect.stringContaining(`exits with ${code}`),
    ])
    expect(error.message).toContain("saying: because")
  })

  test("accepts nothing by dying", async () => {
    const error = await failure("kill -SEGV $$")
    expect([error.code, error.message]).toEqual(["scan-failed", expect.stringContaining("killed by SIGSEGV")])
  })

  test("accepts nothing by taking too long", async () => {
    const error = await failure("/bin/sleep 1000; exit 0", { timeoutMs: 50 })
    expect([error.code, error.message]).toEqual(["scan-failed", expect.stringContaining("longer than 50 ms")])
  })

  test("is killed with all of its group when it is given up, with the signal's reason", async () => {
    const giveUp = new AbortController()
    const out = join(temporaryFolder(), "pids")
    const running = scan(`/bin/sleep 1000 & echo $$ $! >${out}.tmp; /bin/mv ${out}.tmp ${out}; wait`, {
      signal: giveUp.signal,
    })
    while (!existsSync(out)) await new Promise(resolve => setTimeout(resolve, 5))
    giveUp.abort(new Error("given up"))
    await expect(running).rejects.toThrow("given up")
    for (const pid of readFileSync(out, "utf8").trim().split(" ")) await gone(pid)
    await expect(scan("exit 0", { signal: giveUp.signal })).rejects.toThrow("given up")
  })

  test("leaves nothing behind that it started and did not wait for", async () => {
    const out = join(temporaryFolder(), "pid")
    expect(await scan(`/bin/sleep 1000 & echo $! >${out}; exit 0`)).toEqual({ accepted: true })
    await gone(readFileSync(out, "utf8").trim())
  })

  test("that another process holds on to its standard error does not keep waiting", async () => {
    const out = join(temporaryFolder(), "pid")
    const script = `/usr/bin/setsid /bin/sh -c 'echo $$ >${out}.tmp; /bin/mv ${out}.tmp ${out}; exec /bin/sleep 1000' & 
      while [ ! -e ${out} ]; do :; done; echo no >&2; exit 1`
    expect(await scan(script)).toEqual({ accepted: false, reason: "no" })
    const pid = Number(readFileSync(out, "utf8"))
    expect(isRunning(`${pid}`)).toBe(true)
    process.kill(pid, "SIGKILL")
  })

  test("that is not there, or may not be run, is a failure", async () => {
    const file = join(temporaryFolder(), "text")
    writeFileSync(file, "hello")
    expect((await failure("", { command: "/nowhere" })).message).toContain("cannot be started (ENOENT)")
    expect((await failure("", { command: file })).message).toContain("cannot be started (EACCES)")
  })

  test("does not judge what could not be read to its end, even when it accepts", async () => {
    const root = async function* () {
      yield Buffer.alloc(1000)
      throw new ImageError("store-corrupt", "a part is too short")
    }
    const error = await failure("/bin/cat >/dev/null; exit 0", { root: root() })
    expect([error.code, error.message]).toEqual([
      "scan-failed",
      expect.stringContaining("a part is too short"),
    ])
  })

  test("closes what it read from when it ends early", async () => {
    let closed = false
    const root = async function* () {
      try {
        for (;;) yield Buffer.alloc(64 * 1024)
      } finally {
        closed = true
      }
    }
    expect(await scan("exit 0", { root: root() })).toEqual({ accepted: true })
    while (!closed) await new Promise(resolve => setTimeout(resolve, 5))
  })
})

describe("verdicts", () => {
  async function setUp(body: string) {
    const folder = temporaryFolder()
    await packImage(join(folder, "image"), { layers: [{ files: [{ path: "hello", content: "hi" }] }] })
    const store = await ImageStore.open(join(folder, "store"))
    const image = await store.load(`oci:${join(folder, "image")}`)
    const program = join(folder, "program")
    const runs = join(folder, "runs")
    const write = (text: string) => {
      writeFileSync(program, `#!/bin/sh\necho run >>${runs}\n${text}\n`)
      chmodSync(program, 0o700)
    }
    write(body)
    const attachments = folderAttachments(join(folder, "trust"), image.digest)
    const command: ScanCommand = { command: program, args: ["a"], timeoutMs: 30_000, env: { A: "1", B: "2" } }
    const check = (scanner = new Scanner(command)) => scanner.check({ image, name: "app:1", attachments })
    const count = () => (existsSync(runs) ? readFileSync(runs, "utf8").split("\n").length - 1 : 0)
    const kept = () => readdirSync(join(folder, "trust", image.digest.slice(7)))
    return { folder, image, command, check, count, write, program, kept, attachments }
  }

  test("are asked for once, for whoever comes first, second, or later", async () => {
    const { command, check, count } = await setUp("exit 0")
    const scanner = new Scanner(command)
    await Promise.all([check(scanner), check(scanner), check(scanner)])
    await check()
    expect(count()).toBe(1)
  })

  test("that refuse are kept with what was said", async () => {
    const { check, count } = await setUp("echo too old >&2; exit 1")
    for (let i = 0; i < 2; i++)
      await expect(check()).rejects.toMatchObject({
        code: "scan-refused",
        message: expect.stringContaining("refuses app:1"),
        fields: { reason: "too old" },
      })
    expect(count()).toBe(1)
  })

  test("that were none are asked for again", async () => {
    const { check, count } = await setUp("exit 3")
    for (let i = 0; i < 2; i++) expect(await codeOf(() => check())).toBe("scan-failed")
    expect(count()).toBe(2)
  })

  test("of another program do not count: other arguments, environment, or file", async () => {
    const { command, check, count, write, program } = await setUp("exit 0")
    await check()
    await check(new Scanner({ ...command, args: ["a", "b"] }))
    await check(new Scanner({ ...command, env: { A: "1" } }))
    await check(new Scanner({ ...command, env: { B: "2", A: "1" }, timeoutMs: 1000_000 }))
    expect(count()).toBe(3)
    write("echo changed >&2; exit 1")
    utimesSync(program, 1, 1)
    expect(await codeOf(() => check())).toBe("scan-refused")
  })

  test("that are damaged, or another image's, count as none", async () => {
    const { check, count, kept, attachments } = await setUp("exit 0")
    await check()
    const [file = ""] = kept()
    const good = await attachments.get(file)
    const other = Buffer.from(
      `${good && Buffer.from(good)}`.replace(/sha256:[0-9a-f]{64}/, digestOf("other")),
    )
    for (const [i, bytes] of [Buffer.alloc(0), Buffer.from("{}"), other].entries()) {
      await attachments.set(file, bytes)
      await check()
      expect(count()).toBe(2 + i)
    }
    expect(kept()).toEqual([file])
  })

  test("need the program to be there still", async () => {
    const { check, command } = await setUp("exit 0")
    await check()
    expect(await codeOf(() => check(new Scanner({ ...command, command: "/nowhere" })))).toBe("scan-failed")
  })

  test("are given on the image's root", async () => {
    const { folder, check } = await setUp('exec /bin/cat >"$0.tar"')
    await check()
    const entries = readTar(readFileSync(join(folder, "program.tar")))
    expect(entries.map(([entry, content]) => [entry.path, content])).toEqual([["hello", "hi"]])
  })

  test("that cannot be kept are not taken for given", async () => {
    const { folder, image, command } = await setUp("exit 0")
    writeFileSync(join(folder, "file"), "")
    const attachments = folderAttachments(join(folder, "file"), image.digest)
    const check = () => new Scanner(command).check({ image, name: "", attachments })
    expect(await codeOf(check)).toBe("io")
  })

  test("have names that stay in their folder", async () => {
    const { attachments } = await setUp("exit 0")
    expect(await codeOf(() => attachments.get("../x"))).toBe("reference-invalid")
    expect(await codeOf(() => attachments.set("a/b", Buffer.alloc(0)))).toBe("reference-invalid")
  })
})
