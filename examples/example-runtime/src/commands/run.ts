import { constants } from "node:os"
import type { LazyLayerReport } from "@ts-vmm/oci-image"
import {
  type Container,
  defaultPaths,
  type PublishedPort,
  Sandbox,
  type SandboxMount,
  type SandboxOptions,
  type SandboxProcess,
  type SandboxStorage,
} from "@ts-vmm/runtime"
import { parseRootfs } from "../arguments.js"
import { CliError, reportError } from "../exit.js"
import { tellLazyStart } from "../lazy-start.js"
import { LayerSums, startProgress } from "../progress.js"

/** Options of `run` as commander parses them. */
export interface RunOptions {
  readonly rootfs?: boolean
  readonly rootDisk?: boolean
  readonly interactive?: boolean
  readonly tty?: boolean
  readonly rm?: boolean
  readonly name?: string
  readonly pull: string
  readonly lazy?: boolean
  readonly imageDevice?: string
  readonly env: Record<string, string>
  readonly volume: SandboxMount[]
  readonly mount: SandboxMount[]
  readonly disk: SandboxMount[]
  readonly network: string
  readonly publish: PublishedPort[]
  readonly cniConfDir?: string
  readonly cniPluginDir: readonly string[]
  readonly ip: string[]
  readonly ip6: string[]
  readonly gateway: readonly string[]
  readonly dns: readonly string[]
  readonly macAddress?: string
  readonly mtu?: number
  readonly networkQueues?: number
  readonly networkVhost?: boolean
  readonly workdir?: string
  readonly user?: string
  readonly entrypoint?: string
  readonly hostname?: string
  readonly memory?: number
  readonly memoryTarget?: number
  readonly memoryMax?: number
  readonly storageOpt?: SandboxStorage
  readonly diskBps?: number
  readonly diskIops?: number
  readonly cpus?: number
  readonly cpusMax?: number
  readonly hypervisor: string
  readonly umlMode: string
  readonly kernel?: string
  readonly initramfs?: string
  readonly startTimeout?: number
  readonly watchdog?: number
  readonly readOnly?: boolean
  readonly json?: boolean
  readonly debug?: boolean
}

/** Signals that the sandbox's program gets instead of us. */
const FORWARDED: readonly NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"]

/** Runs one command in a sandbox of its own; returns its exit code. */
export async function run(image: string, command: string[], options: RunOptions): Promise<number> {
  if (options.tty && !process.stdin.isTTY && options.interactive)
    throw new CliError("the input device is not a TTY")
  const abort = new AbortController()
  const stopEarly = () => abort.abort()
  for (const signal of FORWARDED) process.once(signal, stopEarly)
  const progress = startProgress(`starting ${image}`)
  const layers = new LayerSums()
  const lazy: LazyLayerReport[] = []
  const creating = Sandbox.create({
    ...sandboxOptions(image, command, options),
    signal: abort.signal,
    onImageProgress: layer => progress.show(layers.add(layer)),
    onLazyLayer: report => lazy.push(report),
  })
  await using sandbox = await creating.finally(() => progress.stop())
  tellLazyStart(lazy, options)
  sandbox.on("error", reporter())
  if (options.debug) (await import("../log.js")).startDebugLog(sandbox)
  const container = await startContainer(sandbox, command, options, abort.signal)
  for (const signal of FORWARDED) process.off(signal, stopEarly)
  const exitCode = await unlessHung(sandbox, attach(container.init, options))
  sandbox.recordExit(exitCode)
  if (options.json)
    console.error(JSON.stringify({ event: "exit", id: sandbox.id, exitCode, timings: sandbox.timings }))
  return exitCode
}

/** A guest that hangs ends, with its sandbox; only a watchdog finds out. */
function unlessHung<T>(sandbox: Sandbox, work: Promise<T>): Promise<T> {
  const hung = new Promise<never>((_, reject) => {
    sandbox.once("unresponsive", silentMs =>
      reject(new CliError(`the guest does not answer, for ${silentMs} ms now: it was ended`)),
    )
  })
  return Promise.race([work, hung])
}

/**
 * Failures of which the program sees no more than an I/O error: of its disk, and of an image that is on its way; and what of
 * its network could not be given back.
 */
const BEHIND_IO: ReadonlySet<unknown> = new Set([
  "no-space",
  "disk-failed",
  "image-unavailable",
  "image-invalid",
  "network-failed",
])

/** Tells of each kind once: a program may try again and again. */
function reporter(): (error: Error & { code?: string }) => void {
  const told = new Set<unknown>()
  return error => {
    if (!BEHIND_IO.has(error.code) || told.has(error.code)) return
    told.add(error.code)
    reportError(error)
  }
}

function sandboxOptions(
  image: string,
  command: string[],
  options: RunOptions,
): Parameters<typeof Sandbox.create>[0] {
  return {
    ...rootOf(image, options),
    command,
    paths: defaultPaths(),
    keepRecord: !options.rm,
    mounts: [...options.volume, ...options.mount, ...options.disk],
    network: options.network as "none",
    ports: options.publish,
    guestNetwork: guestNetworkOf(options),
    cniPluginDirs: options.cniPluginDir,
    // The runtime checks these names itself, and says which there are.
    pull: options.pull as "missing",
    lazy: options.lazy ?? false,
    hypervisor: options.hypervisor as "auto",
    umlMode: options.umlMode as "ptrace",
    ...defined({
      imageDevice: options.imageDevice as "blk" | undefined,
      cniConfDir: options.cniConfDir,
      name: options.name,
      memoryMiB: options.memory,
      memoryTargetMiB: options.memoryTarget,
      memoryMaxMiB: options.memoryMax,
      storage: options.storageOpt,
      diskLimit: diskLimitOf(options),
      cpus: options.cpus,
      cpusMax: options.cpusMax,
      hostname: options.hostname,
      kernel: options.kernel,
      initramfs: options.initramfs,
      watchdogMs: options.watchdog === undefined ? undefined : Math.ceil(options.watchdog * 1000),
      timeoutMs: options.startTimeout === undefined ? undefined : options.startTimeout * 1000,
    }),
  }
}

function guestNetworkOf(options: RunOptions): NonNullable<SandboxOptions["guestNetwork"]> {
  const { ip, ip6, gateway, dns, macAddress, mtu } = options
  const { networkQueues: queuePairs, networkVhost: vhost } = options
  const more = defined({ macAddress, mtu, queuePairs, vhost })
  return { addresses: [...ip, ...ip6], gateways: gateway, nameServers: dns, ...more }
}

function diskLimitOf({ diskBps, diskIops }: RunOptions): SandboxOptions["diskLimit"] {
  if (diskBps === undefined && diskIops === undefined) return undefined
  return defined({ bytesPerSecond: diskBps, operationsPerSecond: diskIops })
}

/** What the first argument names. */
function rootOf(
  image: string,
  { rootfs, rootDisk }: RunOptions,
): Pick<Parameters<typeof Sandbox.create>[0], "image" | "rootfs"> {
  if (rootfs && rootDisk) throw new CliError("--rootfs and --root-disk exclude each other")
  if (!rootfs && !rootDisk) return { image }
  return { rootfs: parseRootfs(rootfs ? "folder" : "disk", image) }
}

function startContainer(
  sandbox: Sandbox,
  command: string[],
  options: RunOptions,
  signal: AbortSignal,
): Promise<Container> {
  return sandbox.createContainer({
    command,
    signal,
    env: options.env,
    stdin: options.interactive ?? false,
    readOnlyRoot: options.readOnly ?? false,
    ...defined({
      entrypoint:
        options.entrypoint === undefined ? undefined : [options.entrypoint].filter(one => one !== ""),
      cwd: options.workdir,
      user: options.user,
      tty: options.tty ? terminalSize() : undefined,
    }),
  })
}

/** Connects this program's terminal or pipes with the container's until the program ends. */
async function attach(init: SandboxProcess, options: RunOptions): Promise<number> {
  const detach = [
    forwardSignals(init, options),
    options.interactive ? connectStdin(init, options) : nothing,
    options.tty ? followResize(init) : nothing,
  ]
  // The callbacks of writes tell; without a listener the event would end this program.
  for (const output of [process.stdout, process.stderr]) output.on("error", nothing)
  try {
    for await (const event of init) {
      if (event.kind === "exit") return event.exitCode
      await write(event.kind === "stdout" ? process.stdout : process.stderr, event.data)
    }
    throw new CliError("the program ended without an exit code")
  } finally {
    for (const undo of detach) undo()
  }
}

function forwardSignals(init: SandboxProcess, options: RunOptions): () => void {
  const forward = (signal: NodeJS.Signals) => {
    // Without its terminal nobody can end an interactive program any more, and as PID 1 it may ignore a hangup.
    const hungUp = signal === "SIGHUP" && options.tty === true
    init.kill(hungUp ? "SIGKILL" : signal).catch(nothing) // it has ended, or the guest has: the end is told below
  }
  for (const signal of FORWARDED) process.on(signal, forward)
  return () => {
    for (const signal of FORWARDED) process.off(signal, forward)
  }
}

function connectStdin(init: SandboxProcess, options: RunOptions): () => void {
  const raw = options.tty === true && process.stdin.isTTY
  if (raw) process.stdin.setRawMode(true)
  process.stdin.on("error", () => init.stdin.end())
  process.stdin.pipe(init.stdin)
  return () => {
    process.stdin.unpipe(init.stdin)
    if (raw) process.stdin.setRawMode(false)
    // A terminal that nobody reads any more must not keep this program alive.
    process.stdin.destroy()
  }
}

function followResize(init: SandboxProcess): () => void {
  const resize = () => {
    init.resize(terminalSize()).catch(() => undefined) // it has ended: `wait` tells
  }
  process.stdout.on("resize", resize)
  return () => process.stdout.off("resize", resize)
}

function terminalSize(): { columns: number; rows: number } {
  return { columns: process.stdout.columns ?? 80, rows: process.stdout.rows ?? 24 }
}

/** Resolves when the bytes have left this program, so that no exit can cut them off. */
function write(to: NodeJS.WriteStream, data: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    to.write(data, error => (error ? reject(brokenPipe(error)) : resolve()))
  })
}

/** Whoever read our output has gone: end as a program killed by SIGPIPE does, without a word. */
function brokenPipe(error: NodeJS.ErrnoException): Error {
  if (error.code !== "EPIPE") return error
  return new CliError("the reader of the output is gone", 128 + constants.signals.SIGPIPE)
}

function nothing(): void {
  // An option that is off has nothing to undo, an event that is told elsewhere nothing to do.
}

/** Drops fields that are undefined: with exactOptionalPropertyTypes absent and undefined differ. */
function defined<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never
}
