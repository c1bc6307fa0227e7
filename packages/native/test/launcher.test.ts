import { type ChildProcess, type StdioOptions, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
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
  await vi.waitFor(() => expect(findProcesses(`sleep\0${nap}`)).toHaveLength(number), { timeout: 30_000 })
}

vi.setConfig({ testTimeout: 90_000 })

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
    [["--chdir", "/"]],
    [["--chdir", "/", "true"]],
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
  test("stdin, stdout and stderr, and no other fd", async () => {
    const launched = launch(
      ["--", "sh", "-c", "ls /proc/self/fd"],
      ["ignore", "pipe", "pipe", "pipe", "pipe", "pipe"],
    )

    // ls itself opens the folder, as 3.
    expect((await launched.done).out.trim().split("\n")).toEqual(["0", "1", "2", "3"])
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

    await vi.waitFor(() => expect(findProcesses(nap)).toEqual([]), { timeout: 30_000 })
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
    await vi.waitFor(() => expect(findProcesses(nap)).toEqual([]), { timeout: 30_000 })
  })

  test("a program whose daemons fork and exit all the time", async () => {
    // Bounded, in case the launcher fails: each of 3 runners hands over to a new process 300 times.
    const runner = `run() { [ $1 -gt 0 ] && { run $(($1 - 1)) & exit 0; }; exec sleep ${nap}; }; run 300`
    const launched = shell(`for i in 1 2 3; do (${runner}) & done; sleep ${nap} & exit 0`)

    expect((await launched.done).code).toBe(0)
    expect(findProcesses(nap)).toEqual([])
  })
})
