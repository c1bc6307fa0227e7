// Runs the real agent on this machine, in namespaces of its own, over a socket pair: every path but boot.
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { createServer, type Server, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"
import type { Duplex } from "node:stream"
import { fileURLToPath } from "node:url"
import type { MessageInitShape } from "@bufbuild/protobuf"
import {
  AgentClient,
  type ContainerSpecOptions,
  type CreateContainerRequestSchema,
  containerSpec,
  type ProcessEnd,
  type ProcessSpecOptions,
  processSpec,
} from "../src/index.js"

const BUSYBOX = "/usr/bin/busybox"
const BUILD_AGENT = join(dirname(fileURLToPath(import.meta.url)), "../scripts/build-agent.mjs")
const BASE = "/run/tsvmm"
/** Building the agent takes a while, the first time. */
export const START_TIMEOUT_MS = 180_000

/** Why the agent cannot run on this machine, or undefined. */
export function whyNoHostAgent(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root for namespaces"
  try {
    execFileSync(BUSYBOX, ["true"])
    execFileSync("unshare", ["-mpuifC", "true"])
    return cgroupMount() ? undefined : "needs a mounted cgroup2 file system"
  } catch (error) {
    return `needs busybox-static and unshare: ${(error as Error).message}`
  }
}

/** What the namespaces are furnished with before the agent starts. $1 base, $2 root fs, $3 cgroup, $4.. the agent. */
const SETUP = `
set -e
mount -t tmpfs -o size=512m tmpfs /run
mkdir -p $1/image
mount --bind "$2" $1/image
echo $$ >"$3/cgroup.procs"
shift 3
exec unshare --cgroup sh -c 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"' sh "$@"
`

/** One started process: its streams to the host and its exit code. */
export interface Started {
  stdin: Socket
  stdout: Socket
  stderr: Socket
  end: Promise<ProcessEnd>
  /** Of `end`. */
  exit: Promise<number>
}

export class HostAgent {
  readonly client: AgentClient
  /** The connection that `client` uses. */
  readonly raw: Duplex
  readonly #process: ChildProcess
  readonly #dir: string
  readonly #cgroup: string
  readonly #servers: Server[] = []
  #nextPort = 2000

  private constructor(dir: string, cgroup: string, child: ChildProcess) {
    this.#dir = dir
    this.#cgroup = cgroup
    this.#process = child
    this.raw = child.stdio[3] as Duplex
    this.client = new AgentClient(this.raw)
  }

  static async start({ sandbox = true } = {}): Promise<HostAgent> {
    const agent = execFileSync(process.execPath, [BUILD_AGENT], { encoding: "utf8" }).trim()
    const dir = mkdtempSync(join(tmpdir(), "tsvmm-agent-"))
    makeRootfs(join(dir, "rootfs"))
    const cgroup = makeCgroup(dir)
    const setup = [
      "sh",
      "-c",
      SETUP,
      "sh",
      BASE,
      join(dir, "rootfs"),
      cgroup,
      agent,
      "--connect-fd",
      "3",
      "--stdio-dir",
      dir,
    ]
    const flags = [
      "--mount",
      "--pid",
      "--fork",
      "--uts",
      "--ipc",
      "--mount-proc",
      "--propagation",
      "private",
      "--kill-child",
    ]
    const child = spawn("unshare", [...flags, ...setup], { stdio: ["ignore", "inherit", "inherit", "pipe"] })
    const self = new HostAgent(dir, cgroup, child)
    if (sandbox) await self.client.createSandbox({ hostname: "sandbox", sandboxId: "s", dns: ["192.0.2.53"] })
    return self
  }

  /** A port the agent can connect to; resolves with the connection. */
  listen(): { port: number; socket: Promise<Socket> } {
    const port = this.#nextPort++
    const socket = new Promise<Socket>(resolve => {
      const server = createServer({ allowHalfOpen: true }, resolve)
      server.listen(join(this.#dir, String(port)))
      this.#servers.push(server)
    })
    return { port, socket }
  }

  /** The storages of a container: a writable overlay over the busybox root, on a file system that others share. */
  storages(id: string) {
    const dir = `${BASE}/${id}`
    return {
      rootPath: `${dir}/rootfs`,
      storages: [
        {
          driver: "overlayfs",
          mountPoint: `${dir}/rootfs`,
          options: [
            `lowerdir=${BASE}/image`,
            `upperdir=${BASE}/written/${id}/up`,
            `workdir=${BASE}/written/${id}/work`,
          ],
        },
      ],
    }
  }

  /** The agent's process, seen from here. */
  get pid(): number {
    const { pid } = this.#process
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim())
  }

  get running(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null
  }

  /** Resolves when the agent has ended. */
  async ended(): Promise<void> {
    if (this.running) await once(this.#process, "exit")
  }

  /** Starts another process in a container. */
  async exec(containerId: string, execId: string, options: ProcessSpecOptions): Promise<Started> {
    const [stdin, stdout, stderr] = [this.listen(), this.listen(), this.listen()]
    const ports = stdioPorts(options, stdin.port, stdout.port, stderr.port)
    const started = this.client.execProcess({ containerId, execId, process: processSpec(options), ...ports })
    const end = this.client.waitProcess({ containerId, execId })
    end.catch(() => undefined)
    await started
    return await streams(options, stdin.socket, stdout.socket, stderr.socket, end)
  }

  /** Runs a container to its end: exit code and output. */
  async output(id: string, options: Omit<ContainerSpecOptions, "rootPath">) {
    const run = await this.run(id, { env: ["PATH=/bin"], ...options })
    run.stdin.end()
    const [out, err, code] = await Promise.all([readAll(run.stdout), readAll(run.stderr), run.exit])
    await this.client.removeContainer({ containerId: id })
    return { code, out: out.toString(), err: err.toString() }
  }

  /** Creates, starts and waits for a container, all requests in one go. */
  async run(id: string, options: Omit<ContainerSpecOptions, "rootPath">): Promise<Started> {
    const [stdin, stdout, stderr] = [this.listen(), this.listen(), this.listen()]
    const { rootPath, storages } = this.storages(id)
    const request: MessageInitShape<typeof CreateContainerRequestSchema> = {
      containerId: id,
      execId: id,
      storages,
      OCI: containerSpec({ ...options, rootPath }),
      ...stdioPorts(options, stdin.port, stdout.port, stderr.port),
    }
    const created = this.client.createContainer(request)
    const started = this.client.startContainer({ containerId: id })
    const end = this.client.waitProcess({ containerId: id, execId: id })
    end.catch(() => undefined)
    await Promise.all([created, started])
    return await streams(options, stdin.socket, stdout.socket, stderr.socket, end)
  }

  async stop(): Promise<void> {
    const gone = this.ended()
    this.client.close()
    await gone
    for (const server of this.#servers) server.close()
    await removeCgroup(this.#cgroup)
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

function stdioPorts(options: ProcessSpecOptions, stdin: number, stdout: number, stderr: number) {
  return options.terminal
    ? { stdoutPort: stdout }
    : { stdinPort: stdin, stdoutPort: stdout, stderrPort: stderr }
}

async function streams(
  options: ProcessSpecOptions,
  stdin: Promise<Socket>,
  stdout: Promise<Socket>,
  stderr: Promise<Socket>,
  end: Promise<ProcessEnd>,
): Promise<Started> {
  const exit = end.then(({ exitCode }) => exitCode)
  exit.catch(() => undefined)
  const out = await stdout
  if (options.terminal) return { stdin: out, stdout: out, stderr: out, end, exit }
  return { stdin: await stdin, stdout: out, stderr: await stderr, end, exit }
}

function cgroupMount(): string | undefined {
  return readFileSync("/proc/mounts", "utf8").match(/^\S+ (\S+) cgroup2 /m)?.[1]
}

/** A cgroup of its own, so that agents that run side by side do not meet. */
function makeCgroup(dir: string): string {
  const path = join(cgroupMount()!, basename(dir))
  mkdirSync(path)
  return path
}

async function removeCgroup(path: string): Promise<void> {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeCgroup(join(path, entry.name))
  }
  // The kernel takes a moment to let go of dead processes.
  for (const end = performance.now() + 20_000; ; ) {
    try {
      return rmdirSync(path)
    } catch (error) {
      if (performance.now() > end) throw error
      await new Promise(resolve => setTimeout(resolve, 5))
    }
  }
}

function makeRootfs(root: string): void {
  for (const dir of ["bin", "etc", "home/ann", "proc", "sys", "dev", "tmp", "run"])
    mkdirSync(join(root, dir), { recursive: true })
  cpSync(BUSYBOX, join(root, "bin/busybox"))
  for (const name of execFileSync(BUSYBOX, ["--list"], { encoding: "utf8" }).trim().split("\n")) {
    if (name !== "busybox") symlinkSync("busybox", join(root, "bin", name))
  }
  writeFileSync(
    join(root, "etc/passwd"),
    "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n",
  )
  writeFileSync(join(root, "etc/group"), "root:x:0:\nann:x:1001:\nwheel:x:10:ann\nvideo:x:44:bob,ann\n")
  writeFileSync(join(root, "etc/plain"), "not a program\n")
  writeFileSync(join(root, "etc/script"), "no interpreter line\n", { mode: 0o755 })
}

/** Everything a stream delivers, until it ends. */
export async function readAll(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}
