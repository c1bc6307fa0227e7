import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Sandbox, type SandboxError } from "@ts-vmm/runtime"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR } from "./cli.js"
import { HYPERVISOR, LONG_TEST_MS, PATIENCE_MS, underTest } from "./under-test.js"

const stateDir = mkdtempSync(join(tmpdir(), "tsv-"))
const paths = { stateDir, imageDir: TEST_IMAGE_DIR }
const image = `oci:${busyboxImage()}`

afterAll(() => {
  expect(readdirSync(join(stateDir, "s"))).toEqual([])
  expect(readdirSync(join(stateDir, "n"))).toEqual([])
  rmSync(stateDir, { recursive: true })
})

describe("exec", () => {
  let sandbox: Sandbox
  beforeAll(async () => {
    sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
  })
  afterAll(() => sandbox.destroy())

  test("resolves with code, output and time, and does not throw on a non-zero code", async () => {
    const result = await sandbox.exec("sh", ["-c", "echo out; echo err >&2; exit 3"])
    expect(result).toMatchObject({ exitCode: 3, signal: undefined, stdout: "out\n", stderr: "err\n" })
    expect(result.durationMs).toBeGreaterThan(0)
  })

  test("throws on a non-zero code when check is set", async () => {
    await expect(sandbox.exec("false", [], { check: true })).rejects.toMatchObject({
      code: "command-failed",
      exitCode: 1,
    })
  })

  test("gives input and takes it back", async () => {
    expect((await sandbox.exec("tr", ["a-z", "A-Z"], { input: "shout" })).stdout).toBe("SHOUT")
  })

  test("names the signal that ended a program", async () => {
    expect(await sandbox.exec("sh", ["-c", "kill -9 $$"])).toMatchObject({ exitCode: 137, signal: "SIGKILL" })
  })

  test("A6: a program that is not there is an error, also with a terminal, and leaves nothing running", async () => {
    await expect(sandbox.exec("nothing-here")).rejects.toMatchObject({ code: "command-not-found" })
    await expect(sandbox.spawn("nothing-here", [], { tty: true })).rejects.toMatchObject({
      code: "command-not-found",
    })
    expect((await sandbox.shell("ps -o comm | grep -c nothing-here")).stdout).toBe("0\n")
  })

  test("kills the program when timeoutMs passes", async () => {
    await expect(sandbox.exec("sleep", ["1000"], { timeoutMs: 300 })).rejects.toMatchObject({
      code: "timeout",
    })
    // It dies when the guest's kernel lets it run again.
    const count = async () => (await sandbox.shell("ps -o args | grep -c '[s]leep 1000'")).stdout
    await expect.poll(count, { timeout: PATIENCE_MS }).toBe("0\n")
  })

  test("kills a program whose start took longer than timeoutMs", async () => {
    const late = sandbox.exec("sleep", ["2000"], { timeoutMs: 1 })
    await expect(late).rejects.toMatchObject({ code: "timeout" })
    const count = async () => (await sandbox.shell("ps -o args | grep -c '[s]leep 2000'")).stdout
    await expect.poll(count, { timeout: PATIENCE_MS }).toBe("0\n")
  })

  test("A6: more output than asked for ends the program with an error", async () => {
    await expect(sandbox.exec("yes", [], { maxOutputBytes: 100_000 })).rejects.toThrow(
      "wrote more than 100000 bytes",
    )
  })

  test("an abort signal ends the wait", async () => {
    const abort = new AbortController()
    const running = sandbox.exec("sleep", ["1000"], { signal: abort.signal })
    setTimeout(() => abort.abort(), 200)
    await expect(running).rejects.toMatchObject({ code: "aborted" })
  })

  test("100 at once", async () => {
    const results = await Promise.all(
      Array.from({ length: 100 }, (_, i) => sandbox.exec("sh", ["-c", `echo ${i}`])),
    )
    expect(results.map(one => one.stdout)).toEqual(results.map((_, i) => `${i}\n`))
  })
})

describe("failures leave nothing in the guest", () => {
  test("A6: streams of failed and finished programs are closed on both sides", {
    timeout: LONG_TEST_MS,
  }, async () => {
    await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    for (let i = 0; i < 200; i++) await sandbox.exec("nothing-here").catch(() => undefined)
    for (let i = 0; i < 200; i++) await sandbox.exec("true")
    // The agent holds at most a few thousand streams: kept ones would have used them up long before this.
    const many = await Promise.all(Array.from({ length: 50 }, () => sandbox.exec("echo", ["ok"])))
    expect(many.every(one => one.stdout === "ok\n")).toBe(true)
  })

  test("a user that does not exist is one error, and the sandbox lives on", async () => {
    await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    await expect(sandbox.createContainer({ command: ["true"], user: "nobody-knows" })).rejects.toThrow(
      /nobody-knows/,
    )
    await expect(sandbox.exec("true", [], { user: "nobody-knows" })).rejects.toThrow(/nobody-knows/)
    expect((await sandbox.exec("true")).exitCode).toBe(0)
  })
})

describe("spawn", () => {
  test("streams both ways while the program runs, and takes signals", async () => {
    await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    const cat = await sandbox.spawn("cat")
    cat.stdin.write("one\n")
    expect(String(await once(cat.stdout))).toBe("one\n")
    cat.stdin.write("two\n")
    expect(String(await once(cat.stdout))).toBe("two\n")
    await cat.kill("SIGTERM")
    expect(await cat.wait()).toMatchObject({ exitCode: 143, signal: "SIGTERM" })
  })

  test("iterates over output and the end", async () => {
    await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    const events: string[] = []
    const program = await sandbox.spawn("sh", ["-c", "echo a; read line; echo b >&2; exit 7"])
    for await (const event of program) {
      events.push(event.kind === "exit" ? `exit ${event.exitCode}` : `${event.kind} ${event.data}`)
      if (event.kind === "stdout") program.stdin.write("go on\n")
    }
    expect(events).toEqual(["stdout a\n", "stderr b\n", "exit 7"])
  })

  test("a terminal has a size, and follows a resize", async () => {
    await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    const script = "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done"
    const shell = await sandbox.spawn("sh", ["-c", script], { tty: { columns: 90, rows: 33 } })
    let text = ""
    let resized: Promise<void> | undefined
    shell.stdout.on("data", chunk => {
      text += chunk
      if (text.includes("ready")) resized ??= shell.resize({ columns: 120, rows: 40 })
    })
    // The word of its end may be here before its last output is.
    const wholeText = new Promise(resolve => shell.stdout.once("end", resolve))
    expect((await shell.wait({ timeoutMs: PATIENCE_MS })).exitCode).toBe(0)
    await resized
    await wholeText
    expect(text.replaceAll("\r", "")).toBe("33 90\nready\n40 120\n")
  })
})

describe("containers", () => {
  test("two in one sandbox share the kernel and nothing else", async () => {
    await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 256, ...underTest })
    const [one, two] = await Promise.all([
      sandbox.createContainer({ command: ["sleep", "100"], hostname: "one" }),
      sandbox.createContainer({ command: ["sleep", "100"], hostname: "two" }),
    ])
    await one.shell("echo mine > /file")
    expect((await two.exec("ls", ["/file"])).exitCode).toBe(1)
    expect((await one.exec("hostname")).stdout).toBe("one\n")
    expect((await two.exec("hostname")).stdout).toBe("two\n")
    expect((await two.shell("ps | grep -c '[s]leep 100'")).stdout).toBe("1\n")
    const bootIds = await Promise.all([one, two].map(c => c.exec("cat", ["/proc/sys/kernel/random/boot_id"])))
    expect(bootIds[0]?.stdout).toBe(bootIds[1]?.stdout)
    await one.kill("SIGKILL")
    expect((await one.wait()).exitCode).toBe(137)
    expect((await two.exec("true")).exitCode).toBe(0)
  })

  test("X3: a container that eats all memory is told of by an event, and the sandbox lives on", async () => {
    await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 96, ...underTest })
    const oom = new Promise(resolve => sandbox.once("oom", resolve))
    const hog = await sandbox.createContainer({ command: ["sh", "-c", "tail /dev/zero; sleep 1"] })
    expect(await oom).toBe(hog.id)
    expect((await sandbox.exec("echo", ["alive"])).stdout).toBe("alive\n")
  })

  test("a removed container's place can be taken again", async () => {
    await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    for (let i = 0; i < 5; i++) {
      const container = await sandbox.createContainer({ command: ["true"] })
      expect((await container.wait()).exitCode).toBe(0)
      await container.remove()
    }
  })
})

describe("the sandbox itself", () => {
  test("tells what it is and when it was ready", async () => {
    const sandbox = await Sandbox.create({ image, paths, name: "named", memoryMiB: 128, ...underTest })
    const exits: boolean[] = []
    sandbox.on("exit", reason => exits.push(reason.requested))
    expect(sandbox).toMatchObject({ name: "named", status: "running", hypervisor: HYPERVISOR })
    expect(sandbox.timings.readyMs).toBeGreaterThan(sandbox.timings.machineMs)
    expect(Sandbox.list(paths)).toMatchObject([{ name: "named", status: "running" }])
    await expect(Sandbox.create({ image, paths, name: "named", ...underTest })).rejects.toMatchObject({
      code: "name-in-use",
    })
    await sandbox.stop({ timeoutMs: 100 })
    expect(exits).toEqual([true])
    expect(sandbox.status).toBe("stopped")
    await expect(sandbox.exec("true")).rejects.toMatchObject({ code: "stopped" })
  })

  // Under KVM the machine has no process of its own that could be killed: test/kvm has its endings.
  test.skipIf(HYPERVISOR !== "uml")(
    "A8: when the agent is gone the sandbox has failed at once, and calls say so",
    async () => {
      const sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
      const pending = sandbox.exec("sleep", ["1000"])
      pending.catch(() => undefined)
      await sandbox.exec("true")
      // Only a fault of the guest kernel can end its init; from here it is ended by its machine.
      process.kill(sandbox.pid as number, "SIGKILL")
      await expect(pending).rejects.toMatchObject({ code: "guest-died" })
      await sandbox.wait({ timeoutMs: PATIENCE_MS })
      expect(sandbox.status).toBe("failed")
      await expect(sandbox.exec("true")).rejects.toMatchObject({ code: "stopped" })
    },
  )

  test("A9: its folder and sockets are closed to others", async () => {
    await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    const folder = join(stateDir, "s", sandbox.id)
    expect(statSync(folder).mode & 0o777).toBe(0o700)
    for (const name of readdirSync(folder).filter(one => one.endsWith(".sock"))) {
      expect([name, statSync(join(folder, name)).mode & 0o777]).toEqual([name, 0o600])
    }
  })

  test("D1: twenty in a row leave no file descriptor, process or folder behind", {
    timeout: LONG_TEST_MS,
  }, async () => {
    const once = async () => {
      await using sandbox = await Sandbox.create({ image, paths, memoryMiB: 64, ...underTest })
      await sandbox.exec("true")
    }
    await once()
    const before = readdirSync("/proc/self/fd").length
    for (let i = 0; i < 20; i++) await once()
    // The pipes of the last machine's process close in a later turn of the event loop.
    await expect
      .poll(() => readdirSync("/proc/self/fd").length, { timeout: PATIENCE_MS })
      .toBeLessThanOrEqual(before)
    expect(readdirSync(join(stateDir, "s"))).toEqual([])
  })

  test("an abort during the start leaves nothing", async () => {
    const abort = new AbortController()
    const creating = Sandbox.create({ image, paths, signal: abort.signal, ...underTest })
    setTimeout(() => abort.abort(), 20)
    await expect(creating).rejects.toMatchObject({ code: "aborted" } satisfies Partial<SandboxError>)
    expect(Sandbox.list(paths)).toEqual([])
  })
})

function once(stream: NodeJS.ReadableStream): Promise<Buffer> {
  return new Promise(resolve => stream.once("data", resolve))
}
