import type { Server } from "node:net"
import type { LazyImage, StoredImage } from "@ts-vmm/oci-image"
import type { ArrivingImage } from "./arriving-image.js"
import { Attachments } from "./attach/attachments.js"
import { type AttachedNetwork, type NetworkAttachment, Networks } from "./attach/networks.js"
import { Turns } from "./attach/turns.js"
import { type BootedGuest, bootGuest, type SandboxTimings, type StartPlan } from "./boot.js"
import { ConsoleLog } from "./console-log.js"
import type {
  Container,
  ContainerHost,
  ContainerOptions,
  ExecOptions,
  ExecResult,
  SpawnOptions,
} from "./container/container.js"
import { Containers } from "./container/containers.js"
import type { CopyInOptions, CopyOutOptions } from "./container/copy.js"
import type { SandboxProcess } from "./container/process.js"
import { resolveCommand } from "./container/spec.js"
import type { SandboxMount } from "./container/volumes.js"
import type { CopySummary } from "./copy/unpack.js"
import type { SandboxCpus } from "./cpus/sandbox-cpus.js"
import { deferred, pickWait, type WaitOptions, withDeadline } from "./deadline.js"
import { SandboxError } from "./errors.js"
import { SandboxEmitter, type SandboxExitReason } from "./events.js"
import { fromGuestError } from "./guest-errors.js"
import { chooseHypervisor } from "./hypervisor/choose.js"
import type { HypervisorName, Machine } from "./hypervisor/hypervisor.js"
import { fromImageError } from "./images.js"
import { watchOom } from "./memory/oom.js"
import type { SandboxMemory } from "./memory/sandbox-memory.js"
import { pruneWithNetworks, tellLeftNetwork } from "./network/cni/sweep.js"
import { checkNetworkOn } from "./network/options.js"
import { checkOptions, type SandboxOptions } from "./options.js"
import { defaultPaths } from "./paths.js"
import { findRoot } from "./root/find.js"
import { arrivingOf, giveRoot, isWritten, rootDefaults, rootName, type SandboxRoot } from "./root/root.js"
import { unmount } from "./root/unmount.js"
import { answerControl } from "./state/answer-control.js"
import { type ControlHandler, serveControl } from "./state/control.js"
import { OwnRecord } from "./state/own-record.js"
import { isOver, type SandboxRecord, type SandboxStatus } from "./state/record.js"
import { findSandboxes, SandboxDirectory } from "./state/sandbox-directory.js"
import { watchGuest } from "./watchdog/watchdog.js"

/** Default for a guest to come up; a hundred times what it takes on a quiet machine. */
const BOOT_TIMEOUT_MS = 30_000
/** How long `stop` waits for programs to follow SIGTERM; Docker's value. */
const STOP_GRACE_MS = 10_000

/**
 * Containers of one image, or of one root file system of the host, on a Linux kernel of their own. It lives in the
 * process that made it, owns one private folder, and leaves nothing behind.
 *
 * @example
 * ```ts
 * import { Sandbox } from "@ts-vmm/runtime"
 *
 * await using sandbox = await Sandbox.create({ image: "oci:./python-image" })
 * const { stdout } = await sandbox.exec("python3", ["-c", "print(6 * 7)"])
 * console.log(stdout)
 * ```
 */
export class Sandbox extends SandboxEmitter {
  readonly id: string
  readonly name: string
  /** Undefined where the root is none (`rootfs`). */
  readonly image: StoredImage | LazyImage | undefined
  readonly hypervisor: HypervisorName
  /** The console's last 64 KiB. */
  readonly console = new ConsoleLog()
  readonly timings: SandboxTimings = { imageMs: 0, machineMs: 0, readyMs: 0 }
  readonly #options: SandboxOptions
  readonly #directory: SandboxDirectory
  readonly #record: OwnRecord
  readonly #containers: Containers
  readonly #ended = deferred<SandboxExitReason>()
  readonly #root: SandboxRoot
  readonly #arriving: ArrivingImage | undefined
  readonly #turns = new Turns()
  readonly #attachments = new Attachments(this.#turns, error => this.#report(error))
  readonly #networks = new Networks(this.#turns, error => this.#report(error))
  #guest: BootedGuest | undefined
  #machine: Machine | undefined
  #gone: Promise<void> | undefined
  #control: Server | undefined
  #killRequested = false
  #unmounting: Promise<void> | undefined

  private constructor(
    options: SandboxOptions,
    directory: SandboxDirectory,
    root: SandboxRoot,
    hypervisor: HypervisorName,
  ) {
    super()
    this.#options = options
    this.#directory = directory
    this.id = directory.id
    this.name = directory.name
    this.#containers = new Containers(options.hostname ?? this.id, () => this.#containerHost(), this.#turns)
    this.#root = root
    this.image = root.kind === "image" ? root.image : undefined
    this.#arriving = arrivingOf(root)
    if (this.#arriving)
      this.#arriving.onError = error =>
        this.#report(fromImageError(error, rootName(this.#root, this.#options.image)))
    this.hypervisor = hypervisor
    this.#record = new OwnRecord(directory, {
      image: rootName(root, options.image),
      ...(this.image ? { imageDigest: this.image.digest } : {}),
      command: options.command ?? [],
      hypervisor,
    })
  }

  /**
   * Boots a sandbox. It has no container yet: `exec`, `spawn` and `shell` make one when they are first used,
   * `createContainer` makes them one by one.
   *
   * @throws SandboxError `invalid-argument`, `image-not-found`, `image-unavailable`, `image-refused`, `image-invalid`, `name-in-use`, `no-space`,
   * `hypervisor-unavailable`, `boot-failed`, `timeout`, `aborted`
   */
  static async create(options: SandboxOptions): Promise<Sandbox> {
    const startedAt = performance.now()
    const config = checkOptions(options)
    const hypervisor = await chooseHypervisor(config)
    hypervisor.check({ ...config, cpus: config.cpusMax })
    checkNetworkOn(hypervisor.name, config.network)
    const paths = options.paths ?? defaultPaths()
    const root = await findRoot(config.root, options, paths.imageDir)
    const sandbox = await giveRoot(root, () => {
      const directory = SandboxDirectory.create(paths.stateDir, options.name)
      return new Sandbox(options, directory, root, hypervisor.name)
    })
    sandbox.timings.imageMs = performance.now() - startedAt
    const booting = sandbox.#boot({ config, hypervisor, paths, startedAt })
    try {
      await withDeadline(booting, "the guest's start", { timeoutMs: BOOT_TIMEOUT_MS, ...pickWait(options) })
      return sandbox
    } catch (error) {
      await sandbox.#abandon(booting)
      throw tellLeftNetwork(sandbox.#directory.path, fromGuestError(error))
    }
  }

  /** Sandboxes of this user, those of other processes and dead ones included. */
  static list(paths = defaultPaths()): SandboxRecord[] {
    return findSandboxes(paths.stateDir).flatMap(({ record, alive }) =>
      record ? [alive || isOver(record) ? record : { ...record, status: "failed" as const }] : [],
    )
  }

  /**
   * Removes what dead owners left, and with `finished` the records of ended sandboxes. Returns ids. Networks by plugins are
   * given back first; what fails of that is told, and left for the next time.
   */
  static async prune(
    options: { finished?: boolean; onFailure?: (error: Error) => void } = {},
    paths = defaultPaths(),
  ): Promise<string[]> {
    const { finished = false, onFailure = () => undefined } = options
    return pruneWithNetworks(paths.stateDir, { finished }, onFailure)
  }

  get status(): SandboxStatus {
    return this.#record.status
  }

  /** Process id of the machine on the host, or undefined when there is none. */
  get pid(): number | undefined {
    return this.#machine?.pid
  }

  /** How much memory it has. @throws SandboxError `stopped` */
  get memory(): SandboxMemory {
    return this.#running().memory
  }

  /** How many virtual CPUs it works with. @throws SandboxError `stopped` */
  get cpus(): SandboxCpus {
    return this.#running().cpus
  }

  /**
   * Makes a container and starts its program.
   *
   * @throws SandboxError `command-not-found`, `command-not-executable`, `stopped`, `guest-died`
   */
  async createContainer(options: ContainerOptions = {}): Promise<Container> {
    const command = resolveCommand(rootDefaults(this.#root), options)
    return this.#containers.start(command, options)
  }

  /** Starts a program in the sandbox's main container, which is made when it is first needed. */
  async spawn(
    command: string,
    args: readonly string[] = [],
    options: SpawnOptions = {},
  ): Promise<SandboxProcess> {
    return (await this.#containers.main(options)).spawn(command, args, options)
  }

  /** Runs a program in the main container to its end. See `Container.exec`. */
  async exec(command: string, args: readonly string[] = [], options: ExecOptions = {}): Promise<ExecResult> {
    return (await this.#containers.main(options)).exec(command, args, options)
  }

  /** Runs a shell script in the main container. */
  async shell(script: string, options: ExecOptions = {}): Promise<ExecResult> {
    return (await this.#containers.main(options)).shell(script, options)
  }

  /** Copies a file, a folder or a tar stream into the main container. See `Container.copyIn`. */
  async copyIn(
    source: string | AsyncIterable<Uint8Array>,
    path: string,
    options: CopyInOptions = {},
  ): Promise<CopySummary> {
    return (await this.#containers.main(options)).copyIn(source, path, options)
  }

  /** A file or folder of the main container as a tar stream. See `Container.copyOut`. */
  async *copyOut(path: string, options: CopyOutOptions = {}): AsyncGenerator<Buffer> {
    yield* (await this.#containers.main(options)).copyOut(path, options)
  }

  /**
   * Shows what is mounted in every container, also in those that run. Needs the `kvm` hypervisor.
   * @throws SandboxError `invalid-argument`, `hypervisor-unavailable`, `agent-failed`, `stopped`, `timeout`, `aborted`
   */
  attachMount(mount: SandboxMount, options: WaitOptions = {}): Promise<void> {
    return withDeadline(this.#attachments.attach(mount), "attaching a mount", options)
  }

  /** Undoes `attachMount`. @throws SandboxError `not-found`; `in-use` while a program has something of it open */
  detachMount(target: string, options: WaitOptions = {}): Promise<void> {
    return withDeadline(this.#attachments.detach(target), "detaching a mount", options)
  }

  /**
   * Gives the sandbox one network interface more, for all of its containers. Needs the `kvm` hypervisor.
   *
   * @throws SandboxError `invalid-argument`, `hypervisor-unavailable`, `agent-failed`, `stopped`, `timeout`, `aborted`
   *
   * @example
   * ```ts
   * const { device } = await sandbox.attachNetwork({ network: "tap:tap0", addresses: ["10.9.0.2/24"] })
   * await sandbox.shell("ping -c 1 10.9.0.1")
   * await sandbox.detachNetwork(device)
   * ```
   */
  attachNetwork(network: NetworkAttachment, options: WaitOptions = {}): Promise<AttachedNetwork> {
    return withDeadline(this.#networks.attach(network), "attaching a network", options)
  }

  /** Undoes `attachNetwork`; connections over it are cut. @throws SandboxError `not-found`, `agent-failed`, `stopped` */
  detachNetwork(device: string, options: WaitOptions = {}): Promise<void> {
    return withDeadline(this.#networks.detach(device), "detaching a network", options)
  }

  /** Waits for the sandbox's end, whoever causes it. */
  wait(options: WaitOptions = {}): Promise<SandboxExitReason> {
    return withDeadline(this.#ended.promise, "the sandbox", options)
  }

  /** Sends a signal to the first program of every container. */
  async kill(signal: NodeJS.Signals | number = "SIGKILL", options: WaitOptions = {}): Promise<void> {
    await this.#containers.kill(signal, options)
  }

  /** SIGTERM for every container, at most `timeoutMs` (10 s) for them to follow, then the machine ends. */
  async stop(options: WaitOptions = {}): Promise<void> {
    const wait = { timeoutMs: STOP_GRACE_MS, ...pickWait(options) }
    await withDeadline(this.#containers.terminate(), "stopping", wait).catch(() => undefined)
    await this.destroy()
  }

  /** Ends the machine at once and removes everything. Safe to call more than once. */
  async destroy(): Promise<void> {
    this.#killRequested = true
    if (this.#machine) {
      // Once: a second caller must not end the machine under the first one's writing back.
      this.#unmounting ??= this.#unmount()
      await this.#unmounting
      this.#guest?.agent.close()
      await this.#machine.kill()
      await this.#ended.promise
    } else {
      this.#cleanUp(false)
      await this.#arriving?.[Symbol.asyncDispose]()
    }
  }

  /** `await using` ends the sandbox. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy()
  }

  /** What `ps` will show as the exit code. */
  recordExit(exitCode: number): void {
    this.#record.exitCode = exitCode
  }

  /** If what its containers write stays behind on a file system of the host's. */
  async #unmount(): Promise<void> {
    if (!this.#guest || this.status !== "running") return
    if (!isWritten(this.#root) && !this.#attachments.areWritten) return
    const { agentTimeoutMs, timeoutMs } = this.#options
    const answerMs = agentTimeoutMs ?? timeoutMs
    await unmount(this.#guest, this.#containers.ids, answerMs).catch(error => this.#report(error))
  }

  async #boot({ config, hypervisor, paths, startedAt }: StartPlan): Promise<void> {
    this.#record.publish()
    this.#arriving?.begin()
    this.#guest = await bootGuest({
      hypervisor,
      directory: this.#directory.path,
      diskFolder: paths.imageDir,
      root: this.#root,
      config,
      hostname: config.hostname ?? this.id,
      sandboxId: this.id,
      console: this.console,
      onDeviceError: error => this.#report(error),
      onMachine: (machine, gone) => {
        this.timings.machineMs = performance.now() - startedAt
        this.#watch(machine, gone)
        // Others' leftovers go while the guest boots and this process would only wait.
        const report = (error: Error) => this.#report(error)
        pruneWithNetworks(paths.stateDir, { finished: false }, report).catch(report)
      },
    })
    this.#turns.begin(this.#guest)
    this.#networks.begin(this.#guest, config.network)
    await this.#attachments.begin(this.#guest, config, this.#containers.running)
    this.timings.readyMs = performance.now() - startedAt
    this.#control = await this.#serveControl()
    this.#record.status = "running"
    this.#record.publish()
    const watched = watchOom(this.#guest.agent, containerId => this.emit("oom", containerId))
    const alive = watchGuest(this.#guest.agent, config.watchdogMs, this)
    const report = (error: unknown) => this.status === "running" && this.#report(error)
    Promise.all([watched, alive]).catch(report)
    this.#arriving?.fill()
    this.emit("ready")
  }

  /** @throws SandboxError `boot-failed` when the machine ended meanwhile, and took the folder with it */
  async #serveControl(): Promise<Server> {
    const failed = () => new SandboxError("boot-failed", "the guest ended as soon as it was up")
    const control = await serveControl(this.#directory.path, this.#onControl).catch(error => {
      throw this.status === "creating" ? error : failed()
    })
    if (this.status === "creating") return control
    control.close()
    throw failed()
  }

  #watch(machine: Machine, gone: Promise<void>): void {
    this.#machine = machine
    this.#gone = gone
    machine.onConsole(chunk => this.emit("console", chunk))
    gone.then(() => this.#onMachineExit())
  }

  #onMachineExit(): void {
    const reason = { requested: this.#killRequested, lastConsoleLines: this.console.lastLines(5) }
    const neverRan = this.status === "creating"
    this.#record.status = this.#killRequested ? "stopped" : "failed"
    this.#guest?.agent.close()
    try {
      this.#cleanUp(!neverRan && this.#options.keepRecord === true)
    } catch (error) {
      // What could not be removed is left to the next start: whoever waits for the end must not wait for ever.
      this.#report(error)
    }
    const gone = Promise.resolve(this.#arriving?.[Symbol.asyncDispose]())
    gone.catch(error => this.#report(error)).then(() => this.#tellEnd(reason))
  }

  #tellEnd(reason: SandboxExitReason): void {
    this.emit("exit", reason)
    this.#ended.resolve(reason)
  }

  #cleanUp(isKept: boolean): void {
    this.#control?.close()
    this.#record.end(isKept)
  }

  /** Undoes a start that failed: the machine may come up yet, after its starter has given up. */
  async #abandon(booting: Promise<void>): Promise<void> {
    this.#killRequested = true
    await this.#machine?.kill()
    await booting.catch(() => undefined)
    await this.#machine?.kill()
    await this.#gone
    this.#directory.remove()
    await this.#arriving?.[Symbol.asyncDispose]()
  }

  /** @throws SandboxError `stopped` */
  #running(): BootedGuest {
    if (this.#guest && this.status === "running") return this.#guest
    throw new SandboxError("stopped", `the sandbox ${this.name} is not running`)
  }

  #containerHost(): ContainerHost {
    const { agent, vsock } = this.#running()
    const { imageDir } = this.#options.paths ?? defaultPaths()
    return { agent, vsock, root: this.#root, places: this.#attachments.volumes, imageDir }
  }

  readonly #onControl: ControlHandler = (request, streams) =>
    answerControl(request, streams, {
      name: this.name,
      containers: this.#containers.running.values(),
      memory: () => this.memory,
      cpus: () => this.cpus,
      kill: signal => this.kill(signal),
      end: () => void this.destroy().catch(error => this.#report(error)),
    })

  #report(error: unknown): void {
    if (this.listenerCount("error") > 0) this.emit("error", error as Error)
  }
}
