import { createHash, randomBytes } from "node:crypto"
import type { Socket } from "node:net"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { HostAgent, readAll, START_TIMEOUT_MS, whyNoHostAgent } from "./host-agent.js"

const why = whyNoHostAgent()
const PATH = ["PATH=/bin"]
const MIB = 1024 * 1024
const sh = (script: string) => ({ args: ["sh", "-c", script], env: PATH })

/** Resolves once the stream has delivered something that matches. What comes after that waits for its next reader. */
function seen(stream: Socket, pattern: RegExp): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ""
    const onData = (chunk: Buffer) => {
      text += chunk.toString("latin1")
      if (!pattern.test(text)) return
      stream.off("data", onData)
      stream.pause()
      resolve(text)
    }
    stream.on("data", onData)
    stream.resume()
    stream.once("end", () => reject(new Error(`the stream ended with ${JSON.stringify(text)}`)))
  })
}

describe.skipIf(why !== undefined)(
  `agent: stdio${why ? ` (skipped: ${why})` : ""}`,
  { timeout: 60_000 },
  () => {
    let host: HostAgent
    beforeAll(async () => {
      host = await HostAgent.start()
    }, START_TIMEOUT_MS)
    afterAll(() => host.stop())

    test("64 MiB of output arrive whole, and the stream ends after the last byte", async () => {
      const run = await host.run(
        "flood",
        sh("head -c 67108864 /dev/urandom | tee /tmp/copy; sha256sum </tmp/copy >&2"),
      )
      const hash = createHash("sha256")
      let size = 0
      for await (const chunk of run.stdout) {
        hash.update(chunk as Buffer)
        size += (chunk as Buffer).length
      }
      const told = (await readAll(run.stderr)).toString().split(" ")[0]
      expect({ size, digest: hash.digest("hex") }).toEqual({ size: 64 * MIB, digest: told })
      expect(await run.exit).toBe(0)
      await host.client.removeContainer({ containerId: "flood" })
    })

    test("16 MiB of input arrive whole", async () => {
      const data = randomBytes(16 * MIB)
      const run = await host.run("feed", { args: ["sha256sum"], env: PATH })
      run.stdin.end(data)
      const told = (await readAll(run.stdout)).toString().split(" ")[0]
      expect(told).toBe(createHash("sha256").update(data).digest("hex"))
      await host.client.removeContainer({ containerId: "feed" })
    })

    test("A4: output that nobody reads stops its writer, and nobody else", async () => {
      const stuck = await host.run("stuck", sh("yes; true"))
      stuck.stdout.pause()
      const other = await host.output("other", sh("head -c 1000000 /dev/zero | wc -c"))
      expect(other).toMatchObject({ code: 0, out: "1000000\n" })
      expect(await host.client.check()).toBe(true)
      const exec = await host.exec("stuck", "e", sh("echo alive"))
      expect((await readAll(exec.stdout)).toString()).toBe("alive\n")
      await host.client.removeContainer({ containerId: "stuck" })
      expect(await stuck.exit).toBe(137)
    })

    test("a host that closes stdout ends the writer like a closed pipe", async () => {
      const run = await host.run("hangup", { args: ["yes"], env: PATH })
      await new Promise(resolve => run.stdout.once("data", resolve))
      run.stdout.destroy()
      // As pid 1 of its namespace `yes` gets EPIPE, not the signal.
      expect(await run.exit).toBe(1)
      await host.client.removeContainer({ containerId: "hangup" })
    })

    test("stdio are real pipes that another user can open again", async () => {
      const { out, err } = await host.output("reopen", {
        ...sh("echo one >/dev/stdout; echo two >/dev/stderr; readlink /proc/self/fd/1 | cut -c1-5"),
        user: "ann",
      })
      expect({ out, err }).toEqual({ out: "one\npipe:\n", err: "two\n" })
    })

    test("the exit of an exec does not wait for what it left running, whose output still comes", async () => {
      const run = await host.run("holder", sh("echo up; sleep 100; true"))
      await seen(run.stdout, /up/)
      const waits = "until test -e /go; do sleep 0.02; done; echo late"
      const exec = await host.exec("holder", "e", sh(`(${waits}) & echo early`))
      expect(await exec.exit).toBe(0)
      expect(await (await host.exec("holder", "go", sh("touch /go"))).exit).toBe(0)
      expect((await readAll(exec.stdout)).toString()).toBe("early\nlate\n")
      await host.client.removeContainer({ containerId: "holder" })
    })

    test("says at its end how much a process has written, whoever still has its output open", async () => {
      const run = await host.run("leaver", { args: ["sleep", "1000"], env: PATH })
      const exec = await host.exec("leaver", "e", sh("sleep 1000 & printf abc; printf de >&2"))
      expect(await exec.end).toEqual({ exitCode: 0, stdoutBytes: 3, stderrBytes: 2 })
      await host.client.removeContainer({ containerId: "leaver" })
      expect(await run.exit).toBe(137)
    })

    test("counts what the host has not read yet", async () => {
      // More than can lie between the two; a line of /written for each thousand bytes that have gone.
      const writes = ": >/written; (for i in $(seq 1000); do printf %01000d 0; echo >>/written; done) &"
      const until = "until test $(wc -l </written) -gt 200; do sleep 0.02; done"
      const run = await host.run("ahead", sh(`${writes} ${until}`))
      run.stdout.pause()
      const { stdoutBytes } = await run.end
      expect((await readAll(run.stdout)).length).toBeGreaterThanOrEqual(stdoutBytes)
      expect(stdoutBytes).toBeGreaterThan(200_000)
      await host.client.removeContainer({ containerId: "ahead" })
    })

    test("streams without a port are the null device", async () => {
      const { rootPath, storages } = host.storages("mute")
      const { containerSpec } = await import("../src/index.js")
      const OCI = containerSpec({
        rootPath,
        ...sh("cat; echo gone; readlink /proc/self/fd/0 >/tmp/x; grep -q null /tmp/x"),
      })
      await host.client.createContainer({ containerId: "mute", execId: "mute", storages, OCI })
      await host.client.startContainer({ containerId: "mute" })
      expect(await host.client.waitProcess({ containerId: "mute", execId: "mute" })).toMatchObject({
        exitCode: 0,
      })
      await host.client.removeContainer({ containerId: "mute" })
    })

    test("a terminal: size, resize, interrupt key, end-of-file key", async () => {
      const size = { rows: 33, columns: 99 }
      const script =
        "tty; stty size; trap 'stty size; echo winch' WINCH; trap 'echo int' INT; echo up; cat; cat; exit 4"
      const run = await host.run("tty", { ...sh(script), terminal: true, size })
      expect(await seen(run.stdout, /up/)).toContain("/dev/pts/0\r\n33 99\r\n")
      run.stdin.write("x\n")
      // Once echoed by the terminal, once by cat: it runs.
      await seen(run.stdout, /x\r\nx\r\n/)
      await host.client.ttyWinResize({ containerId: "tty", execId: "tty", row: 44, column: 88 })
      run.stdin.write("\x03")
      expect(await seen(run.stdout, /int[\s\S]*winch|winch[\s\S]*int/)).toContain("44 88")
      run.stdin.end()
      expect(await run.exit).toBe(4)
      await host.client.removeContainer({ containerId: "tty" })
    })

    test("a terminal for an exec is its own, and /dev/console is the container's", async () => {
      const run = await host.run("tty2", { ...sh("echo up; read x; echo bye"), terminal: true })
      await seen(run.stdout, /up/)
      const exec = await host.exec("tty2", "e", {
        ...sh("tty; ls -l /dev/console | cut -c1; echo hello >/dev/tty"),
        terminal: true,
      })
      expect((await readAll(exec.stdout)).toString()).toBe("/dev/pts/1\r\nc\r\nhello\r\n")
      expect(await exec.exit).toBe(0)
      run.stdin.write("\n")
      expect(await run.exit).toBe(0)
      await host.client.removeContainer({ containerId: "tty2" })
    })

    test("A6: exec of a missing program with a terminal fails and leaves no process behind", async () => {
      const run = await host.run("ttybad", sh("echo up; sleep 100; true"))
      await seen(run.stdout, /up/)
      const failure = host.exec("ttybad", "e", { args: ["nosuch"], env: PATH, terminal: true })
      await expect(failure).rejects.toMatchObject({ code: "exec-not-found", exitCode: 127 })
      await expect(host.client.waitProcess({ containerId: "ttybad", execId: "e" })).rejects.toMatchObject({
        status: 5,
      })
      await host.client.removeContainer({ containerId: "ttybad" })
      expect(await run.exit).toBe(137)
    })
  },
)
