import type { MessageInitShape } from "@bufbuild/protobuf"
import type { AgentClient, ContainerChange, CreateContainerRequestSchema } from "@ts-vmm/guest"
import type { StoredImage } from "@ts-vmm/oci-image"
import type { VsockDevice } from "@ts-vmm/vsock"
import type { PreparedCopy } from "../copy/source.js"
import type { CopySummary } from "../copy/unpack.js"
import type { WaitOptions } from "../deadline.js"
import { ExecError, SandboxError } from "../errors.js"
import { fromGuestError } from "../guest-errors.js"
import { checkHasChanges, fromMountError, rootDefaults, type SandboxRoot } from "../root/root.js"
import { streamFromAgent } from "./agent-stream.js"
import { type ContainerCommitOptions, commitContainer } from "./commit.js"
import type { CopyInOptions, CopyOutOptions } from "./copy.js"
import { type ProcessExit, SandboxProcess, signalNumber } from "./process.js"
import { containerRoot, containerStorages } from "./rootfs.js"
import { containerFor, type ProcessOptions, processFor, resolveCommand } from "./spec.js"
import { StdioListeners } from "./stdio.js"
import { type SharedPlace, volumeMounts } from "./volumes.js"

/** For the end of a program that nobody waits for: the error that it is about has been late enough. */
const KILL_TIMEOUT_MS = 1_000

/** What a container needs of the sandbox that holds it. */
export interface ContainerHost {
  readonly agent: AgentClient
  readonly vsock: VsockDevice
  readonly root: SandboxRoot
  /** The store that new images go to. */
  readonly imageDir: string
  readonly places: readonly SharedPlace[]
}

/** Options of `Sandbox.createContainer`. */
export interface ContainerOptions extends ProcessOptions, WaitOptions {
  /** Default: the image's cmd. */
  readonly command?: readonly string[]
  /** Default: the image's entrypoint. An empty array means none. */
  readonly entrypoint?: readonly string[]
  /** Connects stdin. Without it the program reads from the null device. */
  readonly stdin?: boolean
  /** Default: the sandbox's hostname. */
  readonly hostname?: string
  /** Makes the root file system read-only. */
  readonly readOnlyRoot?: boolean
}

/** Options of `spawn`. */
export interface SpawnOptions extends ProcessOptions, WaitOptions {
  /** Connects stdin. Default true. */
  readonly stdin?: boolean
}

/** Options of `exec` and `shell`. */
export interface ExecOptions extends ProcessOptions, WaitOptions {
  /** Given to the program's stdin, which then ends. */
  readonly input?: string | Uint8Array
  /** Throws `ExecError` for a non-zero exit code. */
  readonly check?: boolean
  /** Most bytes kept of stdout and of stderr. Default 64 MiB. */
  readonly maxOutputBytes?: number
}

/** How an `exec` ended, with all it wrote. */
export interface ExecResult extends ProcessExit {
  readonly stdout: string
  readonly stderr: string
}

const DEFAULT_MAX_OUTPUT_BYTES = 64 * 1024 * 1024

/**
 * A container in a sandbox: a root file system of its own, namespaces of its own, and a first program whose
 * end is the container's end.
 *
 * @example
 * ```ts
 * const container = await sandbox.createContainer({ command: ["sleep", "60"] })
 * const { stdout } = await container.exec("cat", ["/etc/os-release"])
 * await container.remove()
 * ```
 */
export class Container {
  readonly id: string
  /** The container's first program. */
  readonly init: SandboxProcess
  readonly #host: ContainerHost
  readonly #defaults: ProcessOptions
  #execCount = 0

  private constructor(host: ContainerHost, id: string, init: SandboxProcess, defaults: ProcessOptions) {
    this.#host = host
    this.id = id
    this.init = init
    this.#defaults = defaults
  }

  /** Makes a container and starts its program. `command` is final; an empty one only waits. */
  static async start(
    host: ContainerHost,
    id: string,
    command: readonly string[],
    hostname: string,
    options: ContainerOptions,
  ): Promise<Container> {
    const stdio = new StdioListeners(host.vsock, { stdin: options.stdin ?? false, tty: Boolean(options.tty) })
    const address = { containerId: id, execId: id }
    const request: MessageInitShape<typeof CreateContainerRequestSchema> = {
      ...address,
      ...stdio.ports,
      storages: containerStorages(host.root, id),
      OCI: containerFor(rootDefaults(host.root), {
        ...options,
        command,
        hostname,
        readOnlyRoot: options.readOnlyRoot ?? false,
        rootPath: containerRoot(id),
        mounts: volumeMounts(host.places),
      }),
    }
    try {
      // Sent in one go and done in order: two round trips less before the program runs.
      const created = host.agent.createContainer(request, options)
      const started = host.agent.startContainer({ containerId: id }, options)
      const ended = host.agent.waitProcess(address)
      // When the first fails the others do too, maybe sooner: the first one's error says why.
      for (const later of [started, ended]) later.catch(() => undefined)
      await created
      const streams = stdio.connected()
      await started
      return new Container(host, id, new SandboxProcess(host.agent, address, streams, ended), options)
    } catch (error) {
      stdio.destroy()
      host.agent.removeContainer({ containerId: id }).catch(() => undefined)
      throw fromMountError(host.root, fromGuestError(error))
    }
  }

  /**
   * Starts one more program in the container.
   *
   * @throws SandboxError `command-not-found`, `command-not-executable`, `guest-died`, `timeout`, `aborted`
   */
  async spawn(
    command: string,
    args: readonly string[] = [],
    options: SpawnOptions = {},
  ): Promise<SandboxProcess> {
    const { agent, vsock, root } = this.#host
    const stdio = new StdioListeners(vsock, { stdin: options.stdin ?? true, tty: Boolean(options.tty) })
    this.#execCount += 1
    const address = { containerId: this.id, execId: `exec-${this.#execCount}` }
    try {
      const process = processFor(rootDefaults(root), [command, ...args], {
        ...this.#defaults,
        tty: false,
        ...options,
      })
      await agent.execProcess({ ...address, ...stdio.ports, process }, options)
      return new SandboxProcess(agent, address, stdio.connected(), agent.waitProcess(address))
    } catch (error) {
      stdio.destroy()
      const told = fromGuestError(error)
      // Nobody waits for it any more, and the agent may begin it all the same.
      if (told instanceof SandboxError && (told.code === "timeout" || told.code === "aborted")) {
        const kill = { ...address, signal: signalNumber("SIGKILL") }
        await agent.signalProcess(kill, { timeoutMs: KILL_TIMEOUT_MS }).catch(() => undefined)
      }
      throw told
    }
  }

  /**
   * Runs a program to its end. A non-zero exit code is a result, not an error, unless `check` is set.
   *
   * @throws ExecError with `check`; SandboxError as for {@link Container.spawn}
   */
  async exec(command: string, args: readonly string[] = [], options: ExecOptions = {}): Promise<ExecResult> {
    const { input, check, maxOutputBytes = DEFAULT_MAX_OUTPUT_BYTES, ...rest } = options
    const process = await this.spawn(command, args, { ...rest, stdin: input !== undefined })
    try {
      if (input !== undefined) process.stdin.end(input)
      const output = await process.collect(maxOutputBytes, rest)
      const result = {
        ...output,
        stdout: output.stdout.toString("utf8"),
        stderr: output.stderr.toString("utf8"),
      }
      if (check && result.exitCode !== 0) throw new ExecError([command, ...args], result)
      return result
    } catch (error) {
      // Out of time, aborted, or too much output: a program nobody waits for must not run on.
      await process.kill("SIGKILL", { timeoutMs: KILL_TIMEOUT_MS }).catch(() => undefined)
      throw error
    }
  }

  /** Runs `script` with the image's /bin/sh. */
  shell(script: string, options: ExecOptions = {}): Promise<ExecResult> {
    return this.exec("/bin/sh", ["-c", script], options)
  }

  /**
   * What the container changed of its image, sorted by path, as `docker diff` has it: folders with changes in them are
   * changed themselves, and of what was deleted or hidden only the topmost path is told. What is mounted into it does not
   * count. It may go on running; a file that comes or goes meanwhile may be missing.
   *
   * @throws SandboxError `invalid-argument` where the container writes to a root of the host itself; `agent-failed` for more
   * than a million changes or paths above 4096 bytes; `guest-died`, `timeout`, `aborted`
   * @example
   * ```ts
   * for (const { kind, path } of await container.diff()) console.log(kind, path)
   * ```
   */
  async diff(options: WaitOptions = {}): Promise<ContainerChange[]> {
    const { agent, vsock, root } = this.#host
    checkHasChanges(root)
    const containerId = this.id
    // Loaded when it is needed: a start does not pay for it.
    const { ChangeListReader } = await import("@ts-vmm/guest")
    const reader = new ChangeListReader()
    try {
      const call = (port: number) => agent.listChanges({ containerId, port }, options)
      for await (const chunk of streamFromAgent(vsock, call)) reader.push(chunk)
      return reader.end()
    } catch (error) {
      throw fromGuestError(error)
    }
  }

  /**
   * Makes an image of the container: its own image and one more layer with what it changed, as `docker commit` does. The
   * container's programs stand still meanwhile. The image goes to the store that the sandbox's own came from.
   *
   * @throws SandboxError `image-not-found` when the sandbox's image is not in that store, or its root is no image;
   * `image-invalid` for a name that is none, or for changes that are no layer; `agent-failed` for a file called `.wh.…`, which no layer can have;
   * `no-space`, `guest-died`, `timeout`, `aborted`
   * @example
   * ```ts
   * const image = await container.commit({ name: "mine", config: { cmd: ["/app"] } })
   * ```
   */
  commit(options: ContainerCommitOptions = {}): Promise<StoredImage> {
    return commitContainer(this.#host, this.id, options)
  }

  /**
   * A file or folder of the container as a tar stream, whose names begin with its own; those of the root with nothing.
   * Links in the path lead nowhere outside the container, and the last one is not followed unless `followLink` is set.
   * While the container runs its mounts are seen, but not what is mounted further down. The stream ends only when it is
   * whole; whoever stops reading ends the agent's work.
   *
   * **It is a guest's word**: {@link unpackCopy} takes it as such.
   *
   * @throws SandboxError `agent-failed` for a path that is not there, or more than a layer holds; `guest-died`, `timeout`,
   * `aborted`
   * @example
   * ```ts
   * await pipeline(container.copyOut("/var/log"), createWriteStream("log.tar"))
   * ```
   */
  copyOut(path: string, options: CopyOutOptions = {}): AsyncGenerator<Buffer> {
    const { followLink: follow = false, ...wait } = options
    const { agent, vsock } = this.#host
    const containerId = this.id
    return streamFromAgent(vsock, port => agent.packFiles({ containerId, path, follow, port }, wait))
  }

  /**
   * Copies a file or folder of the host, or a tar stream (plain, gzip or zstd), into the container while it runs, as
   * `docker cp` does: into `path` if that is a folder, else as `path`, whose folder has to be there; of `folder/.` the
   * contents; a tar stream into the folder `path`. Mode, time, symbolic and hard links are kept, blocks of zeroes become
   * holes, devices are refused. Owner is root, or with `archive` that of the source. What was copied before a failure
   * stays.
   *
   * It is done as the container's root would: mounts count, and no link leads outside. It may run meanwhile.
   *
   * @returns the size of the tar stream
   * @throws SandboxError `copy-failed` for what cannot be read here, `agent-failed` for what cannot be made there: the
   * message names the file and says why; `guest-died`, `timeout`, `aborted`
   * @example
   * ```ts
   * await container.copyIn("./site", "/srv/www")
   * ```
   */
  async copyIn(
    source: string | AsyncIterable<Uint8Array> | PreparedCopy,
    path: string,
    options: CopyInOptions = {},
  ): Promise<CopySummary> {
    // Loaded when it is needed: a start does not pay for it.
    const { copyIntoContainer } = await import("./copy.js")
    return copyIntoContainer(this.#host, this.id, source, path, options)
  }

  /** Waits for the container's first program. */
  wait(options: WaitOptions = {}): Promise<ProcessExit> {
    return this.init.wait(options)
  }

  /** Sends a signal to the container's first program. */
  kill(signal: NodeJS.Signals | number = "SIGKILL", options: WaitOptions = {}): Promise<void> {
    return this.init.kill(signal, options)
  }

  /** Kills what runs in the container and removes its file system. */
  async remove(options: WaitOptions = {}): Promise<void> {
    await this.#host.agent.removeContainer({ containerId: this.id }, options).catch(error => {
      throw fromGuestError(error)
    })
  }
}

export { resolveCommand }
