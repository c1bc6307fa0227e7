import { once } from "node:events"
import { readFileSync } from "node:fs"
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest"
import { HostAgent, readAll, START_TIMEOUT_MS, whyNoHostAgent } from "./host-agent.js"

const why = whyNoHostAgent()
const PATH = ["PATH=/bin"]
const sh = (script: string) => ({ args: ["sh", "-c", script], env: PATH })

describe.skipIf(why !== undefined)(
  `agent: processes${why ? ` (skipped: ${why})` : ""}`,
  { timeout: 60_000 },
  () => {
    let host: HostAgent
    beforeAll(async () => {
      host = await HostAgent.start()
    }, START_TIMEOUT_MS)
    afterAll(() => host.stop())

    test("runs a program to its exit code, stdout apart from stderr", async () => {
      const { code, out, err } = await host.output("exit3", sh("echo out; echo err >&2; exit 3"))
      expect({ code, out, err }).toEqual({ code: 3, out: "out\n", err: "err\n" })
    })

    test("passes arguments, environment and working directory, which is made when missing", async () => {
      const { out } = await host.output("env", {
        args: ["sh", "-c", 'echo "$0 $1"; env; pwd', "a b", "c"],
        env: [...PATH, "KEY=some value"],
        cwd: "/srv/new dir",
      })
      expect(out.split("\n")).toEqual(
        expect.arrayContaining(["a b c", "KEY=some value", "HOME=/root", "/srv/new dir"]),
      )
    })

    test.each([
      ["ann", "1000:1001:10,44,1001:/home/ann"],
      ["1000", "1000:1001:10,44,1001:/home/ann"],
      ["ann:video", "1000:44:44:/home/ann"],
      ["1234", "1234:0:0:/"],
      ["1234:5678", "1234:5678:5678:/"],
      ["", "0:0:0:/root"],
    ])("user %j is looked up in the container", async (user, expected) => {
      const script =
        "echo $(id -u):$(id -g):$(id -G | tr ' ' '\\n' | sort -n | tr '\\n' ',' | sed s/,$//):$HOME"
      const { out } = await host.output("user", { ...sh(script), user })
      expect(out.trim()).toBe(expected)
    })

    test("an unknown user fails the container before it starts, and its id is free again", async () => {
      await expect(host.run("nobody", { ...sh("true"), user: "nosuch" })).rejects.toMatchObject({
        code: "rpc",
        message: "unable to find user nosuch: no matching entries in passwd file",
      })
      expect((await host.output("nobody", sh("true"))).code).toBe(0)
    })

    test("stdin reaches the program, and its end too", async () => {
      const run = await host.run("cat", { args: ["cat"], env: PATH })
      run.stdin.end("to be copied\n")
      expect((await readAll(run.stdout)).toString()).toBe("to be copied\n")
      expect(await run.exit).toBe(0)
      await host.client.removeContainer({ containerId: "cat" })
    })

    test("CloseStdin ends the input of a program whose stream stays open", async () => {
      const run = await host.run("closed", { args: ["cat"], env: PATH })
      await host.client.closeStdin({ containerId: "closed", execId: "closed" })
      expect(await run.exit).toBe(0)
      run.stdin.destroy()
      await host.client.removeContainer({ containerId: "closed" })
    })

    test.each([
      ["nosuch", 127, 'exec: "nosuch": executable file not found in $PATH', "exec-not-found"],
      [
        "/bin/nosuch",
        127,
        'exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory',
        "exec-not-found",
      ],
      ["/etc/plain", 126, 'exec: "/etc/plain": permission denied', "exec-not-executable"],
      ["/etc", 126, 'exec: "/etc": is a directory', "exec-not-executable"],
      ["/etc/script", 126, "exec /etc/script: exec format error", "exec-not-executable"],
    ])(
      "A6: program %s that cannot be executed ends with %i and its reason",
      async (program, exitCode, message, code) => {
        const failure = await host.run("bad", { args: [program], env: PATH }).catch(error => error)
        expect(failure).toMatchObject({ code, exitCode, message })
        expect(await host.client.waitProcess({ containerId: "bad", execId: "bad" })).toMatchObject({
          exitCode,
        })
        await host.client.removeContainer({ containerId: "bad" })
      },
    )

    test("a signal's number comes back as 128 + n", async () => {
      const run = await host.run("killed", sh("sleep 100"))
      await host.client.signalProcess({ containerId: "killed", execId: "killed", signal: 9 })
      expect(await run.exit).toBe(137)
      await host.client.removeContainer({ containerId: "killed" })
    })

    test("SignalProcess without exec id reaches every process of the container", async () => {
      // Without the shell's `wait`, which can miss a signal that comes just as it begins.
      const inner = 'trap "echo got; touch /got; exit" TERM; echo up; while true; do sleep 0.02; done'
      const outer = "trap 'until test -e /got; do sleep 0.02; done; exit 7' TERM"
      const run = await host.run("all", sh(`${outer}; sh -c '${inner}' & while true; do sleep 0.02; done`))
      // Both have their traps. Nothing is taken from the stream: what came before it is read below would be lost.
      await once(run.stdout, "readable")
      await host.client.signalProcess({ containerId: "all", execId: "", signal: 15 })
      expect((await readAll(run.stdout)).toString()).toContain("got")
      expect(await run.exit).toBe(7)
      await host.client.removeContainer({ containerId: "all" })
    })

    test("exec joins the container: same processes, host name and files; its exit code is its own", async () => {
      const run = await host.run("box", { ...sh("touch /made; echo up; sleep 100; true"), hostname: "inner" })
      await new Promise(resolve => run.stdout.once("data", resolve))
      const exec = await host.exec(
        "box",
        "e1",
        sh("hostname; ls /made; tr '\\0' ' ' </proc/1/cmdline; grep 0:: /proc/self/cgroup; exit 5"),
      )
      expect((await readAll(exec.stdout)).toString()).toBe(
        "inner\n/made\nsh -c touch /made; echo up; sleep 100; true 0::/\n",
      )
      expect(await exec.exit).toBe(5)
      await expect(host.exec("box", "e2", { args: ["nosuch"], env: PATH })).rejects.toMatchObject({
        exitCode: 127,
      })
      const again = await host.exec("box", "e2", sh("exit 6"))
      expect(await again.exit).toBe(6)
      await host.client.removeContainer({ containerId: "box" })
      expect(await run.exit).toBe(137)
    })

    test("exec in a container that has ended is refused", async () => {
      const run = await host.run("over", sh("true"))
      await run.exit
      await expect(host.exec("over", "e", sh("true"))).rejects.toMatchObject({ code: "rpc", status: 9 })
      await host.client.removeContainer({ containerId: "over" })
    })

    test("a failed CreateContainer fails the calls pipelined behind it, and leaves nothing", async () => {
      const { rootPath, storages } = host.storages("broken")
      const bad = {
        driver: "blk",
        source: "/dev/nosuch/../null",
        fstype: "erofs",
        mountPoint: `${rootPath}x`,
      }
      const { containerSpec } = await import("../src/index.js")
      const created = host.client.createContainer({
        containerId: "broken",
        execId: "broken",
        storages: [...storages, { ...bad, driver: "floppy" }],
        OCI: containerSpec({ rootPath, args: ["true"] }),
      })
      const started = host.client.startContainer({ containerId: "broken" })
      const waited = host.client.waitProcess({ containerId: "broken", execId: "broken" })
      const results = await Promise.allSettled([created, started, waited])
      expect(results.map(r => r.status === "rejected" && (r.reason as { status: number }).status)).toEqual([
        3, 5, 5,
      ])
      expect(readFileSync(`/proc/${host.pid}/mountinfo`, "utf8")).not.toContain("broken")
    })

    test("a container without a program lives until it is told to end, runs others, and reaps what they leave", async () => {
      const run = await host.run("idle", { args: [] })
      // Until only the reaper and the shell are left: no zombie.
      const until = "set --; until [ $# = 2 ]; do sleep 0.02; set -- /proc/[0-9]*; done; echo clean"
      const exec = await host.exec("idle", "e", sh(`for i in 1 2 3; do (sleep 0.05 &) ; done; ${until}`))
      expect((await readAll(exec.stdout)).toString()).toBe("clean\n")
      expect(await exec.exit).toBe(0)
      await host.client.signalProcess({ containerId: "idle", execId: "idle", signal: 15 })
      expect(await run.exit).toBe(143)
      await host.client.removeContainer({ containerId: "idle" })
    })

    test("no descriptor of the agent reaches a program", async () => {
      const { out } = await host.output("fds", sh("ls /proc/self/fd"))
      // 3 is the directory that ls reads.
      expect(out.trim().split("\n")).toEqual(["0", "1", "2", "3"])
    })

    test("children that outlive their parents are reaped", async () => {
      const run = await host.run("orphans", sh("for i in 1 2 3 4 5; do (sleep 0.05 &) ; done; sleep 0.1"))
      await run.exit
      await host.client.removeContainer({ containerId: "orphans" })
      const children = () => readFileSync(`/proc/${host.pid}/task/${host.pid}/children`, "utf8").trim()
      await vi.waitFor(() => expect(children()).toBe(""), { timeout: 10_000 })
    })
  },
)
