import { execFileSync } from "node:child_process"
import { once } from "node:events"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { containerSpec, GRPC_STATUS } from "../src/index.js"
import { encodeFrame, MESSAGE_TYPE } from "../src/ttrpc/frame.js"
import { HostAgent, readAll, START_TIMEOUT_MS, whyNoHostAgent } from "./host-agent.js"

const why = whyNoHostAgent()
const PATH = ["PATH=/bin"]
const sh = (script: string) => ({ args: ["sh", "-c", script], env: PATH })

describe.skipIf(why !== undefined)(
  `agent: containers${why ? ` (skipped: ${why})` : ""}`,
  { timeout: 60_000 },
  () => {
    let host: HostAgent
    beforeAll(async () => {
      host = await HostAgent.start()
    }, START_TIMEOUT_MS)
    afterAll(() => host.stop())

    const cgroups = () =>
      readdirSync(`/proc/${host.pid}/root/sys/fs/cgroup`).filter(name => name.startsWith("ctr-"))

    test("two containers of a sandbox do not see each other's processes, files and names", async () => {
      const one = await host.run("one", {
        ...sh("echo 1 >/tmp/mine; echo up; sleep 100; true"),
        hostname: "first",
      })
      const two = await host.run("two", {
        ...sh("echo 2 >/tmp/mine; echo up; sleep 100; true"),
        hostname: "second",
      })
      await Promise.all([one, two].map(run => new Promise(resolve => run.stdout.once("data", resolve))))
      const look = sh("hostname; cat /tmp/mine; ps | grep -c sleep; ipcs -q | wc -l")
      const [a, b] = await Promise.all([host.exec("one", "e", look), host.exec("two", "e", look)])
      expect((await readAll(a.stdout)).toString()).toMatch(/^first\n1\n/)
      expect((await readAll(b.stdout)).toString()).toMatch(/^second\n2\n/)
      await host.client.removeContainer({ containerId: "one" })
      expect(await one.exit).toBe(137)
      expect(await host.exec("two", "e2", sh("true")).then(run => run.exit)).toBe(0)
      await host.client.removeContainer({ containerId: "two" })
    })

    test("removal takes processes, mounts and cgroup away, and answers after that", async () => {
      const mounts = () => readFileSync(`/proc/${host.pid}/mountinfo`, "utf8")
      const before = mounts()
      const run = await host.run("gone", sh("sleep 100 & sleep 100; true"))
      expect(cgroups()).toEqual(["ctr-gone"])
      await host.client.removeContainer({ containerId: "gone", timeout: 10 })
      expect(await run.exit).toBe(137)
      expect(cgroups()).toEqual([])
      expect(mounts()).toBe(before)
      expect(existsSync(`/proc/${host.pid}/root/run/tsvmm/gone/rootfs`)).toBe(false)
      await expect(host.client.removeContainer({ containerId: "gone" })).rejects.toMatchObject({ status: 5 })
    })

    test("removal takes away what was written, however deep, and nothing of others'", async () => {
      const written = (id: string) => `/proc/${host.pid}/root/run/tsvmm/written/${id}/up`
      const other = await host.run("stays", sh("echo up >/mine; echo up; cat"))
      await new Promise(resolve => other.stdout.once("data", resolve))
      const deep = "d=x; for i in $(seq 9); do d=$d/$d; mkdir -p $d; cd $d; d=x; done"
      const script = `mkdir /tree; cd /tree; for i in $(seq 300); do mkdir d; echo x >d/f; chmod 0 d; cd d; done; ln -s / l
        mkdir /wide; cd /wide; for i in $(seq 500); do : >$i; done; ${deep}; mkfifo /p; rm -r /etc; echo up; cat`
      const run = await host.run("writer", sh(script))
      await new Promise(resolve => run.stdout.once("data", resolve))
      expect(existsSync(`${written("writer")}/tree/${"d/".repeat(100)}f`)).toBe(true)
      await host.client.removeContainer({ containerId: "writer" })
      expect(existsSync(written("writer"))).toBe(false)
      expect(existsSync(`${written("writer")}/../work`)).toBe(false)
      expect(readFileSync(`${written("stays")}/mine`, "utf8")).toBe("up\n")
      other.stdin.end()
      expect(await other.exit).toBe(0)
      await host.client.removeContainer({ containerId: "stays" })
    })

    test("a layer of the changes is what tar reads, with attributes, and without those of the overlay", async () => {
      const run = await host.run(
        "packed",
        sh("mkdir /d; echo text >/d/f; rm /etc/plain; mv /etc /old; echo up; cat"),
      )
      await new Promise(resolve => run.stdout.once("data", resolve))
      const file = `/proc/${host.pid}/root/run/tsvmm/written/packed/up/d/f`
      const set = `import os; f = ${JSON.stringify(file)}; os.setxattr(f, "user.mine", b"a\\0b"); os.setxattr(f, "trusted.overlay.x", b"y")`
      execFileSync("python3", ["-c", set])
      const { port, socket } = host.listen()
      const whole = host.client.packChanges({ containerId: "packed", port })
      const layer = await socket.then(readAll)
      await whole
      const list = execFileSync("tar", ["--xattrs", "-tvvf", "-"], { input: layer, encoding: "utf8" })
      expect(list).toMatch(/^-rw-r--r--\*? 0\/0 +5 .* d\/f\n +x: 3 user.mine$/m)
      expect(list).toMatch(/ \.wh\.etc$/m)
      expect(list).toMatch(/ old\/script$/m)
      expect(list).not.toContain("overlay")
      expect(layer.includes("user.mine=a\0b\n")).toBe(true)
      await host.client.removeContainer({ containerId: "packed" })
    })

    test("a stream that the host lets go of, and a container that goes, end the agent's work", async () => {
      const run = await host.run(
        "big",
        sh("dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null; echo up; cat"),
      )
      await new Promise(resolve => run.stdout.once("data", resolve))
      const first = host.listen()
      const refused = host.client.packChanges({ containerId: "big", port: first.port })
      await first.socket.then(socket => once(socket, "readable").then(() => socket.destroy()))
      await expect(refused).rejects.toMatchObject({
        code: "rpc",
        message: expect.stringContaining("send to the host"),
      })
      const second = host.listen()
      const ended = host.client.packChanges({ containerId: "big", port: second.port })
      await second.socket
      const failed = expect(ended).rejects.toMatchObject({
        message: expect.stringContaining("ended before it was done"),
      })
      await host.client.removeContainer({ containerId: "big" })
      await failed
      const none = host.client.listChanges({ containerId: "big", port: 1 })
      await expect(none).rejects.toMatchObject({ status: GRPC_STATUS.NOT_FOUND })
    })

    test("/dev, /proc, /sys and /etc are what the OCI runtime spec and docker promise", async () => {
      const { out } = await host.output(
        "spec",
        sh(`for n in null zero full random urandom tty; do test -c /dev/$n || echo missing $n; done
        for l in fd stdin stdout stderr ptmx; do test -L /dev/$l || echo missing $l; done
        echo x >/dev/null; test -d /dev/shm -a -d /dev/pts -a -d /dev/mqueue && echo dirs
        cat /proc/1/comm; touch /sys/x 2>&1; echo 1 2>&1 >/proc/sys/kernel/panic; wc -c </proc/timer_list
        cat /etc/hostname; grep -c localhost /etc/hosts; cat /etc/resolv.conf; ls /proc/self/ns | grep -c cgroup`),
      )
      expect(out).toBe(
        `dirs\nsh\ntouch: /sys/x: Read-only file system\nsh: can't create /proc/sys/kernel/panic: Read-only file system
0\nsandbox\n2\nnameserver 192.0.2.53\n1\n`,
      )
    })

    test("a read-only root refuses writes and still has the files of /etc", async () => {
      const { out } = await host.output("ro", {
        ...sh("touch /x 2>&1; cat /etc/hostname; touch /dev/shm/ok && echo ok"),
        readonly: true,
        hostname: "ro",
      })
      expect(out).toBe("touch: /x: Read-only file system\nro\nok\n")
    })

    test("capabilities, limits and no_new_privs are the ones asked for", async () => {
      const script =
        "grep -E 'Cap(Bnd|Eff)|NoNewPrivs' /proc/self/status | tr '\\t\\n' '  '; ulimit -n; cat /proc/self/oom_score_adj"
      const { out } = await host.output("caps", {
        ...sh(script),
        capabilities: ["CAP_CHOWN", "CAP_KILL"],
        rlimits: [{ Type: "RLIMIT_NOFILE", Soft: 64n, Hard: 64n }],
        noNewPrivileges: true,
        oomScoreAdj: 500,
      })
      expect(out).toBe("CapEff: 0000000000000021 CapBnd: 0000000000000021 NoNewPrivs: 1 64\n500\n")
    })

    test("a user other than root has no capability left", async () => {
      const { out } = await host.output("nocaps", {
        ...sh("grep CapEff /proc/self/status; touch /etc/x 2>&1"),
        user: "ann",
      })
      expect(out).toBe("CapEff:\t0000000000000000\ntouch: /etc/x: Permission denied\n")
    })

    test.each([
      ["capability", { capabilities: ["CAP_FLY"] }, 'capability "CAP_FLY" is not known'],
      [
        "limit",
        { rlimits: [{ Type: "RLIMIT_LUCK", Soft: 1n, Hard: 1n }] },
        'limit "RLIMIT_LUCK" is not known',
      ],
      ["cwd", { cwd: "relative" }, 'cwd "relative" is not absolute'],
    ])("an unknown %s is refused at the start", async (_what, options, message) => {
      await expect(host.run("odd", { ...sh("true"), ...options })).rejects.toMatchObject({
        code: "rpc",
        message,
      })
      await host.client.removeContainer({ containerId: "odd" })
    })

    test("bind mounts come from the agent's directory only, and keep their options", async () => {
      const bind = (source: string) => [
        { destination: "/mnt/in", type: "bind", source, options: ["rbind", "ro"] },
      ]
      const { out } = await host.output("bind", {
        ...sh("cat /mnt/in/plain; touch /mnt/in/x 2>&1"),
        mounts: bind("/run/tsvmm/image/etc"),
      })
      expect(out).toBe("not a program\ntouch: /mnt/in/x: Read-only file system\n")
      for (const source of ["/etc", "/run/tsvmm/../etc", "/run/tsvmmx"]) {
        await expect(host.run("bind2", { ...sh("true"), mounts: bind(source) })).rejects.toMatchObject({
          status: 3,
        })
      }
    })

    test("A7: links in the image lead nowhere outside the container", async () => {
      const run = await host.run(
        "links",
        sh("ln -s /../../../../run /var; ln -s / /mnt; echo up; sleep 100; true"),
      )
      await new Promise(resolve => run.stdout.once("data", resolve))
      const exec = await host.exec("links", "e", {
        ...sh("pwd; ls -d /run/tsvmm 2>&1"),
        cwd: "/mnt/../../var/x",
      })
      expect((await readAll(exec.stdout)).toString()).toContain("ls: /run/tsvmm: No such file or directory")
      await host.client.removeContainer({ containerId: "links" })
      expect(existsSync(`/proc/${host.pid}/root/run/x`)).toBe(false)
    })

    test("pause stops the processes, resume lets them go on, stats count them", async () => {
      const run = await host.run("paused", sh("while read x; do echo $x; done"))
      const answered = () => new Promise(resolve => run.stdout.once("data", resolve))
      run.stdin.write("1\n")
      await answered()
      await host.client.pauseContainer({ containerId: "paused" })
      expect(readFileSync(`/proc/${host.pid}/root/sys/fs/cgroup/ctr-paused/cgroup.events`, "utf8")).toContain(
        "frozen 1",
      )
      const later = answered()
      run.stdin.end("2\n")
      await host.client.resumeContainer({ containerId: "paused" })
      await later
      const stats = await host.client.statsContainer({ containerId: "paused" })
      expect(stats.cpu.totalNs).toBeGreaterThan(0)
      expect(await run.exit).toBe(0)
      await host.client.removeContainer({ containerId: "paused" })
    })

    test("A3: unknown services and methods answer UNIMPLEMENTED, undecodable requests INVALID_ARGUMENT", async () => {
      const call = (service: string, method: string, payload: number[]) =>
        host.client.rpc.call(service, method, Uint8Array.from(payload)).catch(error => error.status)
      expect(await call("grpc.AgentService", "CopyFile", [])).toBe(GRPC_STATUS.UNIMPLEMENTED)
      expect(await call("grpc.Nothing", "CreateSandbox", [])).toBe(GRPC_STATUS.UNIMPLEMENTED)
      for (const payload of [[0xff], [0x0a, 0x7f], [0x0b], [0x08, 0x01], Array(11).fill(0xff)]) {
        expect(await call("grpc.AgentService", "StartContainer", payload)).toBe(GRPC_STATUS.INVALID_ARGUMENT)
      }
    })

    test("the agent says who it is", async () => {
      expect(await host.client.getGuestDetails()).toEqual({
        version: "0.1.0",
        initDaemon: false,
        storageHandlers: ["blk", "overlayfs", "tmpfs", "virtio-fs"],
      })
      await expect(host.client.setGuestDateTime(new Date(0))).rejects.toMatchObject({ status: 9 })
      await expect(host.client.createSandbox({})).rejects.toMatchObject({
        status: GRPC_STATUS.ALREADY_EXISTS,
      })
    })

    test.each([["../x"], [""], [".hidden"], ["a/b"], ["x".repeat(129)]])(
      "container id %j is refused",
      async id => {
        const OCI = containerSpec({ rootPath: "/run/tsvmm/x", args: ["true"] })
        await expect(host.client.createContainer({ containerId: id, execId: id, OCI })).rejects.toMatchObject(
          {
            status: 3,
          },
        )
      },
    )
  },
)

describe.skipIf(why !== undefined)("agent: connection", { timeout: 60_000 }, () => {
  test(
    "A8: when the host is gone everything in the sandbox ends",
    async () => {
      const host = await HostAgent.start()
      await host.run("left", sh("trap '' TERM HUP INT; sleep 1000 & sleep 1000; true"))
      host.client.close()
      await host.ended()
      expect(host.running).toBe(false)
      await host.stop()
    },
    START_TIMEOUT_MS,
  )

  test(
    "DestroySandbox answers, then ends",
    async () => {
      const host = await HostAgent.start()
      await host.run("left", sh("sleep 1000; true"))
      await host.client.destroySandbox()
      await host.ended()
      await host.stop()
    },
    START_TIMEOUT_MS,
  )

  test(
    "a call that nobody answers yet gives way to the 64th after it",
    async () => {
      const host = await HostAgent.start()
      const calls = Array.from({ length: 65 }, () => host.client.getOomEvent())
      for (const call of calls) call.catch(() => undefined)
      await expect(calls[0]).rejects.toMatchObject({ status: GRPC_STATUS.RESOURCE_EXHAUSTED })
      expect(host.client.rpc.inFlight).toBe(64)
      await host.stop()
    },
    START_TIMEOUT_MS,
  )

  test(
    "before CreateSandbox there are no containers, and its arguments are checked",
    async () => {
      const host = await HostAgent.start({ sandbox: false })
      const OCI = containerSpec({ rootPath: "/run/tsvmm/x", args: ["true"] })
      await expect(host.client.createContainer({ containerId: "x", execId: "x", OCI })).rejects.toMatchObject(
        { status: 9 },
      )
      const storage = { driver: "tmpfs", mountPoint: "/run/tsvmm/m" }
      for (const request of [
        { dns: ["192.0.2.1\nsearch evil"] },
        { dns: Array(17).fill("192.0.2.1") },
        { hostname: "h".repeat(65) },
        { storages: [{ ...storage, mountPoint: "/etc" }] },
        { storages: [storage, { ...storage, mountPoint: "/run/tsvmm/../../etc" }] },
        { storages: [storage, { ...storage, driver: "blk", source: "/etc/passwd" }] },
        { storages: [{ ...storage, driver: "overlayfs", options: ["lowerdir=/etc:/run/tsvmm/a"] }] },
        { storages: [{ ...storage, options: ["bind"] }] },
      ]) {
        await expect(host.client.createSandbox(request)).rejects.toMatchObject({ status: 3 })
      }
      expect(readFileSync(`/proc/${host.pid}/mountinfo`, "utf8")).not.toContain("/run/tsvmm/m ")
      await host.client.createSandbox({ storages: [storage] })
      await host.stop()
    },
    START_TIMEOUT_MS,
  )

  test(
    "A1, A2: oversized frames, even and repeated stream ids are answered as errors, and the agent serves on",
    async () => {
      const host = await HostAgent.start()
      // Beside the client's back: these streams are not its own, so it sees answers to nothing.
      const raw = host.raw
      const oversized = Buffer.alloc(10 + 4 * 1024 * 1024 + 1)
      oversized.writeUInt32BE(4 * 1024 * 1024 + 1, 0)
      oversized.writeUInt32BE(1, 4)
      oversized.writeUInt8(MESSAGE_TYPE.request, 8)
      raw.write(oversized)
      raw.write(encodeFrame(1, MESSAGE_TYPE.request, 0, new Uint8Array()))
      raw.write(encodeFrame(1, MESSAGE_TYPE.data, 0, new Uint8Array(10)))
      expect(await host.client.check()).toBe(true)
      expect(host.client.rpc.strayFrames).toBe(2)
      await host.stop()
    },
    START_TIMEOUT_MS,
  )

  test(
    "A1: a length that uses the reserved byte ends the connection without being allocated",
    async () => {
      const host = await HostAgent.start()
      host.raw.write(Buffer.from([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0]))
      await host.ended()
      await host.stop()
    },
    START_TIMEOUT_MS,
  )
})
