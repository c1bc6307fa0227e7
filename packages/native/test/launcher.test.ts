import { type ChildProcess, type StdioOptions, spawn } from "node:child_process"
import { once } from "node:events"
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Readable } from "node:stream"
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest"
import { launcherPath } from "../src/index.js"
import { findProcesses } from "./support/process.js"

let dir: string
/** A number of seconds that no other test sleeps: finds the processes of this one. */
let nap: string
let count = 0
const running: Launched[] = []

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "tsvmm-launch-"))
  nap = `9999${process.pid}.${count++}`
})
afterEach(async () => {
  // After a test that failed half-way too.
  for (const launched of running.splice(0)) {
    letGo(launched)
    await launched.done
  }
  rmSync(dir, { recursive: true, force: true })
  expect(findProcesses(nap)).toEqual([])
})

interface Launched {
  readonly child: ChildProcess
  /** Resolves with exit code, stdout and stderr. */
  readonly done: Promise<{ code: number | null; out: string; err: string }>
}

function launch(args: readonly string[], stdio: StdioOptions = ["ignore", "pipe", "pipe", "pipe"]): Launched {
  const child = spawn(launcherPath(), args, { stdio })
  const text = async (stream: Readable | null): Promise<string> => {
    let all = ""
    for await (const chunk of stream ?? []) all += chunk
    return all
  }
  const done = Promise.all([once(child, "exit"), text(child.stdout), text(child.stderr)]).then(
    ([[code], out, err]) => ({ code: code as number | null, out, err }),
  )
  const launched = { child, done }
  running.push(launched)
  return launched
}

const shell = (script: string, ...options: string[]): Launched =>
  launch([...options, "--", "sh", "-c", script])

/** Ends the control channel as the death of the caller does. */
function letGo(launched: Launched): void {
  launched.child.stdio[3]?.destroy()
}

/** A daemon that left its process group, session and parent, as daemons do. */
const daemonize = (seconds: string): string =>
  `setsid sh -c 'setsid sleep ${seconds} & exit 0' </dev/null >/dev/null 2>&1`

async function waitForNaps(number: number): Promise<void> {
  await vi.waitFor(() => expect(findProcesses(`sleep\0${nap}`)).toHaveLength(number), { timeout: 10_000 })
}

vi.setConfig({ testTimeout: 30_000 })

describe("exit codes", () => {
  test("the program's own", async () => {
    expect(await shell("echo out; echo err >&2; exit 3").done).toEqual({
      code: 3,
      out: "out\n",
      err: "err\n",
    })
    expect((await launch(["--", "true"]).done).code).toBe(0)
  })

  test("128 + n for signal n", async () => {
    expect((await shell("kill -9 $$").done).code).toBe(137)
    expect((await shell("kill -TERM $$").done).code).toBe(143)
  })

  test("126, 127: cannot be run, not found", async () => {
    writeFileSync(join(dir, "text"), "no program", { mode: 0o600 })

    expect(await launch(["--", join(dir, "text")]).done).toMatchObject({ code: 126 })
    const missing = await launch(["--", "tsvmm-no-such-program"]).done
    expect(missing.code).toBe(127)
    expect(missing.err).toBe("tsvmm-launch: cannot run tsvmm-no-such-program: No such file or directory\n")
    expect((await launch(["--chdir", join(dir, "nowhere"), "--", "true"]).done).code).toBe(126)
  })

  test.each([
    [[]],
    [["--"]],
    [["true"]],
    [["--chdir"]],
    [["--unknown", "x", "--", "true"]],
    [["--keep-fd", "3", "--", "true"]],
    [["--keep-fd", "x", "--", "true"]],
    [["--keep-fd", "900", "--", "true"]],
    [["--keep-fd", "99999999999999999999", "--", "true"]],
    [["--remove-dir", "relative", "--", "true"]],
    [["--remove-dir", "/tmp/", "--", "true"]],
    [["--remove-dir", "/nowhere/at-all", "--", "true"]],
  ])("125: wrong usage %j", async args => {
    const { code, err } = await launch(args).done

    expect(code).toBe(125)
    expect(err).toMatch(/^tsvmm-launch: .+\n$/)
  })

  test("125: no fd 3", async () => {
    const { code, err } = await launch(["--", "true"], ["ignore", "pipe", "pipe"]).done

    expect(code).toBe(125)
    expect(err).toContain("fd 3 is missing")
  })
})

describe("what the program gets", () => {
  test("stdin, stdout, stderr and kept fds, and no others", async () => {
    const script = "ls /proc/self/fd"
    const plain = await shell(script).done
    const kept = launch(
      ["--keep-fd", "5", "--", "sh", "-c", `${script}; echo hello >&5`],
      ["ignore", "pipe", "pipe", "pipe", "pipe", "pipe"],
    )
    const said: string[] = []
    const fifth = (kept.child.stdio as readonly unknown[])[5] as Readable
    fifth.on("data", chunk => said.push(String(chunk)))

    // ls itself opens the folder, as 3.
    expect(plain.out.trim().split("\n")).toEqual(["0", "1", "2", "3"])
    expect((await kept.done).out.trim().split("\n")).toEqual(["0", "1", "2", "3", "5"])
    expect(said.join("")).toBe("hello\n")
  })

  test("no new privileges, default signals, no core dump, its own group in a new session", async () => {
    const { out } = await shell("cat /proc/self/status; cat /proc/self/limits; cat /proc/$$/stat").done

    expect(out).toMatch(/^NoNewPrivs:\s+1$/m)
    expect(out).toMatch(/^SigBlk:\s+0+$/m)
    expect(out).toMatch(/^SigIgn:\s+0+$/m)
    expect(out).toMatch(/^Max core file size\s+0\s+0/m)
    const [pid, , , , group, session] = /^(\d+) \((sh)\) (\S) (\d+) (\d+) (\d+)/m.exec(out)?.slice(1) ?? []
    expect(group).toBe(pid)
    expect(session).not.toBe(pid)
  })

  test("its working directory", async () => {
    expect((await shell("pwd -P", "--chdir", dir).done).out.trim()).toBe(dir)
  })
})

describe("nothing outlives", () => {
  test("the program: daemons are killed when it ends", async () => {
    const { code } = await shell(`${daemonize(nap)}; ${daemonize(nap)}; exit 4`).done

    expect(code).toBe(4)
    expect(findProcesses(nap)).toEqual([])
  })

  test("the caller's hold on fd 3: program, children and daemons are killed", async () => {
    const launched = shell(`${daemonize(nap)}; sleep ${nap} & trap "" TERM HUP INT; sleep ${nap}`)
    await waitForNaps(3)

    letGo(launched)

    expect((await launched.done).code).toBe(137)
    expect(findProcesses(nap)).toEqual([])
  })

  test("bytes on fd 3 mean nothing", async () => {
    const launched = shell(`sleep ${nap}`)
    await waitForNaps(1)

    const control = launched.child.stdio[3] as NodeJS.WritableStream
    await new Promise(resolve => control.write(Buffer.alloc(1000), resolve))
    await new Promise(resolve => setTimeout(resolve, 20))
    expect(findProcesses(`sleep\0${nap}`)).toHaveLength(1)

    letGo(launched)
    expect((await launched.done).code).toBe(137)
  })

  test("the caller: SIGKILL to it kills everything", async () => {
    const code = `
      const { spawn } = require("node:child_process")
      const script = ${JSON.stringify(`${daemonize("NAP")}; sleep NAP`)}.replaceAll("NAP", process.argv[1])
      spawn(${JSON.stringify(launcherPath())}, ["--", "sh", "-c", script], { stdio: ["ignore", "inherit", "inherit", "pipe"] })
      setInterval(() => undefined, 1000)`
    const caller = spawn(process.execPath, ["-e", code, nap], { stdio: "ignore" })
    await waitForNaps(2)

    caller.kill("SIGKILL")

    await vi.waitFor(() => expect(findProcesses(nap)).toEqual([]), { timeout: 10_000 })
  })

  test("the launcher: SIGTERM to it ends everything too, SIGKILL at least the program", async () => {
    const asked = shell(`${daemonize(nap)}; sleep ${nap}`)
    await waitForNaps(2)
    asked.child.kill("SIGTERM")
    expect((await asked.done).code).toBe(137)
    expect(findProcesses(nap)).toEqual([])

    const killed = shell(`exec sleep ${nap}`)
    await waitForNaps(1)
    killed.child.kill("SIGKILL")
    await vi.waitFor(() => expect(findProcesses(nap)).toEqual([]), { timeout: 10_000 })
  })

  test("a program whose daemons fork and exit all the time", async () => {
    // Bounded, in case the launcher fails: each of 3 runners hands over to a new process 300 times.
    const runner = `run() { [ $1 -gt 0 ] && { run $(($1 - 1)) & exit 0; }; exec sleep ${nap}; }; run 300`
    const launched = shell(`for i in 1 2 3; do (${runner}) & done; sleep ${nap} & exit 0`)

    expect((await launched.done).code).toBe(0)
    expect(findProcesses(nap)).toEqual([])
  })
})

describe("--remove-dir", () => {
  /** A folder to remove, with what makes removing hard, beside a file that must stay. */
  function plant(): { doomed: string; outside: string } {
    const doomed = join(dir, "doomed")
    const outside = join(dir, "outside")
    mkdirSync(outside)
    writeFileSync(join(outside, "precious"), "")
    mkdirSync(join(doomed, "a/b/c"), { recursive: true })
    writeFileSync(join(doomed, "a/b/file"), "x")
    writeFileSync(join(doomed, ".hidden"), "x")
    symlinkSync(outside, join(doomed, "link"))
    symlinkSync(outside, join(doomed, "a/b/c/link"))
    return { doomed, outside }
  }

  test("removes the tree when the caller is gone, without following links", async () => {
    const { doomed, outside } = plant()
    const script = `cd a; mkdir -p locked/in; touch locked/in/file; mkfifo pipe; chmod 0 locked/in locked; sleep ${nap}`
    const launched = shell(script, "--chdir", doomed, "--remove-dir", doomed)
    await waitForNaps(1)

    letGo(launched)
    await launched.done

    expect(existsSync(doomed)).toBe(false)
    expect(readdirSync(outside)).toEqual(["precious"])
    expect(readdirSync(dir)).toEqual(["outside"])
  })

  test.each(["root", "nobody"])("removes folders without permissions as %s", async user => {
    const uid = user === "nobody" && process.getuid?.() === 0 ? 65_534 : process.getuid?.()
    chmodSync(dir, 0o777)
    // The checkout may be out of reach for others.
    copyFileSync(launcherPath(), join(dir, "launch"))
    const doomed = join(dir, "doomed")
    const script = `mkdir -p a/b/c; touch a/b/c/f a/f; chmod 0 a/b/c a/b a .; sleep ${nap}`
    const make = `mkdir ${doomed} && exec ${dir}/launch --chdir ${doomed} --remove-dir ${doomed} -- sh -c '${script}'`
    const child = spawn("sh", ["-c", make], { uid, stdio: ["ignore", "inherit", "inherit", "pipe"] })
    const exit = once(child, "exit")
    await waitForNaps(1)

    child.stdio[3]?.destroy()

    expect(await exit).toEqual([137, null])
    expect(readdirSync(dir)).toEqual(["launch"])
  })

  test("keeps the tree when the program ends by itself", async () => {
    const { doomed } = plant()

    await shell("exit 0", "--remove-dir", doomed).done

    expect(readFileSync(join(doomed, "a/b/file"), "utf8")).toBe("x")
  })

  test("is not misled by a program that puts a link in the folder's place", async () => {
    const { doomed, outside } = plant()
    const launched = shell(
      `mv ${doomed} ${doomed}.moved; ln -s ${outside} ${doomed}; sleep ${nap}`,
      "--remove-dir",
      doomed,
    )
    await waitForNaps(1)

    letGo(launched)
    await launched.done

    expect(readdirSync(outside)).toEqual(["precious"])
    expect(readdirSync(`${doomed}.moved`)).toEqual([])
  })

  test("copes with a tree deeper than a path may be long", async () => {
    const { doomed } = plant()
    // Three times ten levels of 250 bytes: 7,500 bytes, and PATH_MAX is 4,096.
    const levels = Array<string>(10).fill("d".repeat(250)).join("/")
    const deep = `for i in 1 2 3; do mkdir -p ${levels}; cd -P ${levels}; done 2>/dev/null; touch file`
    const launched = shell(`${deep}; sleep ${nap}`, "--chdir", doomed, "--remove-dir", doomed)
    await waitForNaps(1)

    letGo(launched)
    await launched.done

    expect(existsSync(doomed)).toBe(false)
  })
})
