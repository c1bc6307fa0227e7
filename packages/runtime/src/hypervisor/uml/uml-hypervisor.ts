import { existsSync, statfsSync } from "node:fs"
import { join } from "node:path"
import { guestArtifacts } from "@ts-vmm/guest/artifacts"
import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import { serveVhostUser, type VhostUserServer } from "@ts-vmm/virtio-devices/vhost-user"
import { SandboxError } from "../../errors.js"
import type { Hypervisor, HypervisorProbe, Machine, MachineSpec, UmlMode } from "../hypervisor.js"
import { umlCommandLine } from "./command-line.js"
import { probeUml } from "./probe.js"
import { startUmlProcess, UmlMachine } from "./uml-machine.js"

const MIB = 1024 * 1024
/** Below this the guest kernel and the agent do not fit. */
const MIN_MEMORY_MIB = 32
/** UML keeps guest RAM in a file there, the only tmpfs every Linux has. */
const SHARED_MEMORY_DIR = "/dev/shm"

/** Options of {@link UmlHypervisor}. */
export interface UmlOptions {
  /** `ptrace` (default) keeps guest programs behind the guest kernel; `seccomp` is faster and does not. */
  readonly mode?: UmlMode
  /** Path of a UML kernel; default is the one in `@ts-vmm/guest`. */
  readonly kernel?: string
}

/**
 * Runs the guest kernel as an ordinary process: User Mode Linux, with our devices over vhost-user. It needs
 * neither KVM nor root. The boundary is that of a process, which docs/threat-model.md spells out.
 */
export class UmlHypervisor implements Hypervisor {
  readonly name = "uml"
  readonly #mode: UmlMode
  readonly #givenKernel: string | undefined

  constructor(options: UmlOptions = {}) {
    this.#mode = options.mode ?? "ptrace"
    this.#givenKernel = options.kernel
  }

  check({ memoryMiB, cpus }: Pick<MachineSpec, "memoryMiB" | "cpus">): void {
    if (memoryMiB < MIN_MEMORY_MIB) {
      throw new SandboxError(
        "invalid-argument",
        `memory of ${memoryMiB} MiB is too small: a guest needs at least ${MIN_MEMORY_MIB} MiB`,
      )
    }
    if (cpus !== 1) {
      throw new SandboxError("invalid-argument", `the uml hypervisor runs one virtual CPU, not ${cpus}`)
    }
  }

  async probe(): Promise<HypervisorProbe> {
    try {
      return await probeUml(this.#kernel(), this.#mode)
    } catch (error) {
      return { usable: false, reason: (error as Error).message }
    }
  }

  async start(spec: MachineSpec): Promise<Machine> {
    this.check(spec)
    const kernel = this.#kernel()
    if (!existsSync(kernel))
      throw new SandboxError("hypervisor-unavailable", `guest kernel ${kernel} is missing`)
    checkDevices(spec.devices)
    checkSharedMemory(spec.memoryMiB)
    const servers = serveDevices(spec)
    try {
      const devices = servers.map(({ socketPath, device }) => ({ socketPath, type: device.type }))
      const child = startUmlProcess(kernel, umlCommandLine(spec, devices, this.#mode), spec.directory)
      return new UmlMachine(child, () => closeServers(servers.map(one => one.server)))
    } catch (error) {
      closeServers(servers.map(one => one.server))
      throw error
    }
  }

  #kernel(): string {
    return this.#givenKernel ?? guestArtifacts().kernel("linux-uml-x86_64")
  }
}

/**
 * Guest RAM is given out page by page: without this check a guest on a full tmpfs dies later of SIGBUS.
 *
 * @throws SandboxError `no-space`
 */
function checkSharedMemory(memoryMiB: number): void {
  const { bavail, bsize } = statfsSync(SHARED_MEMORY_DIR)
  const freeMiB = Math.floor((bavail * bsize) / MIB)
  if (freeMiB >= memoryMiB) return
  throw new SandboxError(
    "no-space",
    `${SHARED_MEMORY_DIR} has ${freeMiB} MiB free and the guest wants ${memoryMiB} MiB: use less --memory, or enlarge it (mount -o remount,size=…)`,
  )
}

/** @throws SandboxError `invalid-argument` for a device that has to be in the guest's address space */
function checkDevices(devices: readonly VirtioDevice[]): void {
  if (!devices.some(({ deviceMemory }) => deviceMemory)) return
  const what = "memoryMaxMiB, imageDevice pmem and mounts with dax are for kvm"
  const message = `the uml hypervisor maps nothing into its guests: ${what}`
  throw new SandboxError("invalid-argument", message)
}

interface ServedDevice {
  readonly device: VirtioDevice
  readonly server: VhostUserServer
  readonly socketPath: string
}

function serveDevices(spec: MachineSpec): ServedDevice[] {
  const served: ServedDevice[] = []
  try {
    for (const [index, device] of spec.devices.entries()) {
      const socketPath = join(spec.directory, `dev${index}.sock`)
      const server = serveVhostUser(device, { socketPath })
      server.on("error", spec.onDeviceError)
      server.on("deviceFailed", spec.onDeviceError)
      served.push({ device, socketPath, server })
    }
    return served
  } catch (error) {
    closeServers(served.map(one => one.server))
    throw error
  }
}

function closeServers(servers: readonly VhostUserServer[]): void {
  for (const server of servers) server.close()
}
