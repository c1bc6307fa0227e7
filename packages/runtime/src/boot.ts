import type { AgentClient } from "@ts-vmm/guest"
import { guestArtifacts } from "@ts-vmm/guest/artifacts"
import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import { VsockDevice, type VsockStream } from "@ts-vmm/vsock"
import { undoAll } from "./attach/turns.js"
import type { ConsoleLog } from "./console-log.js"
import { sandboxStorages } from "./container/rootfs.js"
import { fromVolumeError, openVolumes } from "./container/volume-devices.js"
import { volumeStorages } from "./container/volumes.js"
import { cpuArguments } from "./cpus/options.js"
import { SandboxCpus } from "./cpus/sandbox-cpus.js"
import { deferred } from "./deadline.js"
import { SandboxError } from "./errors.js"
import { fromGuestError } from "./guest-errors.js"
import type { Hypervisor, Machine } from "./hypervisor/hypervisor.js"
import { memoryArguments } from "./memory/options.js"
import { SandboxMemory } from "./memory/sandbox-memory.js"
import { configureNetwork, type GuestNetwork, type SandboxNetwork } from "./network/guest-network.js"
import { startNetwork } from "./network/start.js"
import type { SandboxConfig } from "./options.js"
import type { RuntimePaths } from "./paths.js"
import { openRoot, type RootDevice } from "./root/device.js"
import { fromMountError, type SandboxRoot } from "./root/root.js"
import { makeStorageDisk, type StorageDisk } from "./storage/disk.js"

/** Context id of every guest: one guest a vsock device, so it needs no number of its own. */
const GUEST_CID = 3
/** Places for what is attached while the sandbox runs. */
const SPARE_SLOTS = 4
/** Host port to which the agent connects when it is up. */
const AGENT_PORT = 1024

/** When each step of a start was done, in milliseconds since `create` was called. */
export interface SandboxTimings {
  imageMs: number
  machineMs: number
  readyMs: number
}

/** What a booted machine consists of. */
export interface BootedGuest {
  readonly machine: Machine
  readonly vsock: VsockDevice
  readonly agent: AgentClient
  readonly memory: SandboxMemory
  readonly cpus: SandboxCpus
}

/** What booting needs. */
export interface BootRequest {
  readonly hypervisor: Hypervisor
  readonly directory: string
  /** On whose file system the sandbox's disk lies, if it has one. */
  readonly diskFolder: string
  readonly root: SandboxRoot
  readonly config: Pick<
    SandboxConfig,
    | "memoryMiB"
    | "memoryTargetMiB"
    | "sharedMemory"
    | "memoryMaxMiB"
    | "cpus"
    | "cpusMax"
    | "initramfs"
    | "volumes"
    | "attached"
    | "storage"
    | "diskLimiter"
    | "network"
    | "agentTimeoutMs"
  >
  readonly hostname: string
  readonly sandboxId: string
  readonly console: ConsoleLog
  /** A device stopped: the guest broke its protocol. */
  onDeviceError(error: Error): void
  /**
   * Called as soon as there is a machine to end.
   *
   * @param gone - resolves when it has ended, and all that it had is given back
   */
  onMachine(machine: Machine, gone: Promise<void>): void
}

/**
 * Starts a machine and waits until its agent has mounted the root. The agent's connection is the sign that
 * it is up: nobody polls.
 *
 * @throws SandboxError `boot-failed` with the end of the console when the guest ends before that
 */
export async function bootGuest(request: BootRequest): Promise<BootedGuest> {
  const vsock = new VsockDevice({ guestCid: GUEST_CID })
  const connected = acceptAgent(vsock)
  const root = openRoot(request.root, request.onDeviceError, request.config.diskLimiter)
  const memory = new SandboxMemory(request.config)
  const { machine, network, gone } = await startMachine(request, root, [vsock, ...memory.devices])
  request.onMachine(machine, gone)
  machine.onConsole(chunk => request.console.push(chunk))
  const died = machine.exited.then(exit => {
    throw bootFailed(exit.how, request.console)
  })
  died.catch(() => undefined)
  // The protocol's code is loaded while the guest boots: it is not needed before, and takes as long.
  const { AgentClient, TtrpcClient } = await import("@ts-vmm/guest")
  const stream = await Promise.race([connected, died])
  const agent = new AgentClient(new TtrpcClient(stream, { timeoutMs: request.config.agentTimeoutMs }))
  await Promise.race([prepareSandbox(agent, request, network), died])
  return { machine, vsock, agent, memory, cpus: new SandboxCpus(request.config, agent) }
}

/** What the devices hold, files and a network, stays open for as long as the machine runs, and no longer. */
async function startMachine(
  request: BootRequest,
  root: RootDevice,
  always: readonly VirtioDevice[],
): Promise<{ machine: Machine; network: GuestNetwork | undefined; gone: Promise<void> }> {
  const { hypervisor, directory, config, onDeviceError } = request
  const { memoryMiB, sharedMemory } = config
  const ends: (() => unknown)[] = [() => root.close()]
  try {
    const volumes = await openVolumes(config.volumes, {
      limiter: config.diskLimiter,
      onFailure: onDeviceError,
    })
    ends.push(...volumes.map(volume => () => volume.close()))
    const storage = await openStorage(request)
    if (storage) ends.push(() => storage.close())
    const network = await openNetwork(request)
    if (network) ends.push(() => network.close())
    const machine = await hypervisor.start({
      directory,
      initramfs: config.initramfs ?? guestArtifacts().initramfs,
      memoryMiB,
      sharedMemory,
      cpus: config.cpusMax,
      devices: [
        root.device,
        ...always,
        ...volumes.map(({ device }) => device),
        ...(network ? [network.device] : []),
        ...(storage ? [storage.device] : []),
      ],
      emptySlots: SPARE_SLOTS + config.attached.length,
      kernelArguments: [...memoryArguments(config), ...cpuArguments(config)],
      onDeviceError,
    })
    const gone = machine.exited.then(() => undoAll(ends)).catch(onDeviceError)
    return { machine, network: network?.guest, gone }
  } catch (error) {
    await undoAll(ends).catch(onDeviceError)
    throw error
  }
}

async function openNetwork(request: BootRequest): Promise<SandboxNetwork | undefined> {
  const { network } = request.config
  if (network.kind === "none") return undefined
  if (network.kind !== "cni") return startNetwork(network, request.onDeviceError)
  // Few have one, and it is much code.
  const { startCni } = await import("./network/cni/start.js")
  return startCni(network, request.directory, request.onDeviceError)
}

async function openStorage(request: BootRequest): Promise<StorageDisk | undefined> {
  const { config, diskFolder: folder, directory: fallback, onDeviceError: onFailure } = request
  const { kind, sizeMiB } = config.storage
  const limiter = config.diskLimiter
  return kind === "disk" ? makeStorageDisk({ sizeMiB, folder, fallback, onFailure, limiter }) : undefined
}

/** The first connection is the agent's; it comes before any container can exist. */
function acceptAgent(vsock: VsockDevice): Promise<VsockStream> {
  const { promise, resolve } = deferred<VsockStream>()
  const listener = vsock.listen(AGENT_PORT, stream => {
    listener.close()
    resolve(stream)
  })
  return promise
}

async function prepareSandbox(
  agent: AgentClient,
  request: BootRequest,
  network: GuestNetwork | undefined,
): Promise<void> {
  try {
    const created = agent.createSandbox({
      sandboxId: request.sandboxId,
      hostname: request.hostname,
      dns: [...(network?.nameServers ?? [])],
      storages: [
        ...sandboxStorages(request.root, request.config.storage),
        ...volumeStorages(request.config.volumes),
      ],
    })
    await Promise.all(network ? [created, ...configureNetwork(agent, network)] : [created])
  } catch (error) {
    const told = fromGuestError(error)
    throw fromVolumeError(request.config.volumes, told) ?? fromMountError(request.root, told)
  }
}

function bootFailed(how: string, log: ConsoleLog): SandboxError {
  const last = log.lastLines(3)
  return new SandboxError(
    "boot-failed",
    `the guest ended (${how}) before its agent was up${last ? `; its last words: ${last}` : ""}`,
  )
}

/** What a start goes by. */
export interface StartPlan {
  readonly config: SandboxConfig
  readonly hypervisor: Hypervisor
  readonly paths: RuntimePaths
  /** `performance.now()` when `create` was called. */
  readonly startedAt: number
}
