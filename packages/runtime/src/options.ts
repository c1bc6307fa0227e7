import { existsSync } from "node:fs"
import type { LazyLayerReport, LoadProgress, StoredImage } from "@ts-vmm/oci-image"
import { type RateLimit, RateLimiter } from "@ts-vmm/virtio-devices"
import { checkMounts, isServedHere, type SandboxMount, type Volume } from "./container/volumes.js"
import { type CpuConfig, checkCpus } from "./cpus/options.js"
import type { WaitOptions } from "./deadline.js"
import { SandboxError } from "./errors.js"
import type { HypervisorName, UmlMode } from "./hypervisor/hypervisor.js"
import type { PullPolicy } from "./images.js"
import { checkMax, checkTarget, type MemoryConfig } from "./memory/options.js"
import {
  type CniNetworkOptions,
  checkNetwork,
  type GuestNetworkOptions,
  type NetworkConfig,
  type NetworkMode,
  type PublishedPort,
} from "./network/options.js"
import type { RuntimePaths } from "./paths.js"
import { checkRoot, type ImageDevice, type RootConfig, type SandboxRootfs } from "./root/options.js"
import { checkStorage, type SandboxStorage, type StorageConfig } from "./storage/options.js"

/** Options of `Sandbox.create`. */
export interface SandboxOptions extends WaitOptions, CniNetworkOptions {
  /**
   * The root file system of the containers: a name in the image store, a folder or archive (`oci:DIR`,
   * `oci-archive:FILE`, `docker-archive:FILE`, `rootfs:DIR`), an image of the store, or a name that a registry knows.
   */
  readonly image?: string | StoredImage
  /** A root file system of the host, instead of `image`. */
  readonly rootfs?: SandboxRootfs
  /** When a registry is asked for the image. Default `missing`: if the store does not have it. */
  readonly pull?: PullPolicy
  /** Per-host settings of registries. Default: `defaultRegistriesFile()`. */
  readonly registriesFile?: string
  /** Which images may run. Default: `defaultPolicyFile()`, if it is there. */
  readonly policyFile?: string
  /**
   * Begin before all of a registry's image is there, if its layers carry tables of contents (eStargz, zstd:chunked), or
   * it was there before (`ImageStore.keepLazyIndex`): content is fetched as it is read, and the rest meanwhile. What
   * cannot be fetched is an I/O error in the guest and an `error` event; so is an image that in the end is not what its
   * tables said. An image that cannot be begun with is pulled as any other. Default false.
   */
  readonly lazy?: boolean
  /**
   * How the guest has its image: as a disk, of whose files it has copies in its own RAM, or, on `kvm`, as memory that is
   * the host's page cache itself (virtio-pmem, DAX): sandboxes of one image have its files once. Costs the guest 16 KiB of
   * RAM for each MiB of the image. Default `blk`.
   */
  readonly imageDevice?: ImageDevice
  /** Told with `lazy` of each layer that the store does not have, how it is begun with, or why it cannot be. */
  readonly onLazyLayer?: (report: LazyLayerReport) => void
  /** Unique among the user's sandboxes. Default: the id. */
  readonly name?: string
  /** RAM of the guest, in MiB. Given out page by page as the guest touches it. Default 512. */
  readonly memoryMiB?: number
  /**
   * What the guest shall get along with of its RAM, in MiB; the host has the rest until `sandbox.memory.setTarget`, or
   * until the guest has nothing else left. Default: all of it.
   */
  readonly memoryTargetMiB?: number
  /**
   * Most RAM that the guest can be given while it runs (`sandbox.memory.resize`), in MiB: `memoryMiB` and a multiple of
   * 128. On `kvm`, with a guest kernel that has virtio-mem. Default: `memoryMiB`.
   */
  readonly memoryMaxMiB?: number
  /**
   * RAM that other processes can map, as vhost-user back ends must; for those that are attached later. Costs a page fault
   * for each 4 KiB where the RAM of one process has huge pages. Default: only if `mounts` has such a back end.
   */
  readonly sharedMemory?: boolean
  /** Virtual CPUs. Default 1. */
  readonly cpus?: number
  /** Most virtual CPUs that the guest can work with while it runs (`sandbox.cpus.setOnline`), on `kvm`. Default: `cpus`. */
  readonly cpusMax?: number
  /** Default `auto`: the best one that works here. */
  readonly hypervisor?: "auto" | HypervisorName
  /** Default `ptrace`. `seccomp` is faster and puts no wall between guest programs and the guest kernel. */
  readonly umlMode?: UmlMode
  /** Default: the sandbox's id. */
  readonly hostname?: string
  /** Path of another guest kernel. */
  readonly kernel?: string
  /** Path of another initramfs; its /init has to be the agent of `@ts-vmm/guest`. */
  readonly initramfs?: string
  /** Folders, files and disks of the host, and what other processes serve, that the containers see. Default: none. */
  readonly mounts?: readonly SandboxMount[]
  /** Where what the containers write lies. Default: RAM of the guest. */
  readonly storage?: SandboxStorage
  /**
   * How fast the sandbox's disks may be, all of them together: the image, a root that is a disk, disks of `mounts`, and that
   * of `storage`; not folders of the host. Default: as fast as they are.
   */
  readonly diskLimit?: RateLimit
  /**
   * Default `none`. `passt` needs the program of that name, `tap:NAME` a tap device that this user may open, `cni:NAME`
   * root, the plugins of the network, and the package iproute2.
   */
  readonly network?: NetworkMode
  /** Addresses and more of a guest on a tap device. */
  readonly guestNetwork?: GuestNetworkOptions
  /** Ports of the host that lead into the guest; with passt, or a CNI network that has the capability `portMappings`. */
  readonly ports?: readonly PublishedPort[]
  /**
   * How long an answer of the guest's agent may take, in milliseconds; a machine that is much overcommitted wants
   * more. Waiting for programs to end has no limit of its own. Default: 30,000, or `timeoutMs` of the start where that is
   * more.
   */
  readonly agentTimeoutMs?: number
  /**
   * How long the guest may take to say that it is there, in milliseconds; it is asked all the time, and when it does not
   * answer that is the event `unresponsive`. Default: it is not asked.
   */
  readonly watchdogMs?: number
  /** Where state and images live. Default: `defaultPaths()`. */
  readonly paths?: RuntimePaths
  /** Called while layers of an image are read that the store does not have yet. */
  readonly onImageProgress?: (progress: LoadProgress) => void
  /** What `ps` shows as the command. */
  readonly command?: readonly string[]
  /** Keeps the sandbox's record when it ends, for `ps -a`. */
  readonly keepRecord?: boolean
}

/** {@link SandboxOptions} with every default filled in, checked. */
export interface SandboxConfig extends MemoryConfig, CpuConfig {
  readonly root: RootConfig
  readonly sharedMemory: boolean
  readonly hypervisor: "auto" | HypervisorName
  readonly umlMode: UmlMode
  readonly hostname: string | undefined
  readonly kernel: string | undefined
  readonly initramfs: string | undefined
  /** There when the guest boots. */
  readonly volumes: readonly Volume[]
  /** Attached as soon as it has. */
  readonly attached: readonly Volume[]
  readonly storage: StorageConfig
  readonly diskLimiter: RateLimiter | undefined
  readonly network: NetworkConfig
  readonly agentTimeoutMs: number
  readonly watchdogMs: number | undefined
}

const DEFAULT_MEMORY_MIB = 512
/** 1 TiB: more is a slip of the keyboard. */
const MAX_MEMORY_MIB = 1024 * 1024
const DEFAULT_AGENT_TIMEOUT_MS = 30_000
/** What a timer can wait: 24 days. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1
/** RFC 1123 labels; the kernel's own limit is 64 bytes. */
const HOSTNAME_PATTERN = /^(?=.{1,63}$)[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?$/

/** @throws SandboxError `invalid-argument`, naming the option */
export function checkOptions(options: SandboxOptions): SandboxConfig {
  const { hypervisor = "auto", umlMode = "ptrace", hostname, pull = "missing" } = options
  if (!["auto", "kvm", "uml"].includes(hypervisor))
    throw invalid(`unknown hypervisor "${hypervisor}": use auto, kvm or uml`)
  if (!["ptrace", "seccomp"].includes(umlMode))
    throw invalid(`unknown umlMode "${umlMode}": use ptrace or seccomp`)
  if (!["missing", "always", "never"].includes(pull))
    throw invalid(`unknown pull policy "${pull}": use missing, always or never`)
  if (hostname !== undefined && !HOSTNAME_PATTERN.test(hostname))
    throw invalid(`invalid hostname "${hostname}"`)
  const memoryMiB = checkCount("memoryMiB", options.memoryMiB ?? DEFAULT_MEMORY_MIB, MAX_MEMORY_MIB)
  const volumes = checkMounts(options.mounts ?? [])
  return {
    root: checkRoot(options),
    memoryMiB,
    memoryTargetMiB: checkTarget("memoryTargetMiB", options.memoryTargetMiB ?? memoryMiB, memoryMiB),
    sharedMemory: options.sharedMemory ?? !volumes.every(isServedHere),
    memoryMaxMiB: checkMax(options.memoryMaxMiB ?? memoryMiB, memoryMiB, MAX_MEMORY_MIB),
    ...checkCpus(options),
    hypervisor,
    umlMode,
    hostname,
    kernel: checkFile("kernel", options.kernel),
    initramfs: checkFile("initramfs", options.initramfs),
    volumes: volumes.filter(isServedHere),
    attached: volumes.filter(volume => !isServedHere(volume)),
    storage: checkStorage(options.storage),
    diskLimiter: options.diskLimit && checkDiskLimit(options.diskLimit),
    network: checkNetwork(options.network ?? "none", options.ports ?? [], options.guestNetwork, options),
    agentTimeoutMs: checkCount(
      "agentTimeoutMs",
      options.agentTimeoutMs ?? Math.max(DEFAULT_AGENT_TIMEOUT_MS, Math.ceil(options.timeoutMs ?? 0)),
      MAX_TIMEOUT_MS,
    ),
    watchdogMs:
      options.watchdogMs === undefined
        ? undefined
        : checkCount("watchdogMs", options.watchdogMs, MAX_TIMEOUT_MS),
  }
}

function checkDiskLimit(limit: RateLimit): RateLimiter {
  try {
    return new RateLimiter(limit)
  } catch (error) {
    throw invalid(`diskLimit: ${(error as Error).message}`)
  }
}

function checkCount(name: string, value: number, max: number): number {
  if (!Number.isInteger(value) || value < 1 || value > max)
    throw invalid(`${name} must be a whole number from 1 to ${max}, not ${value}`)
  return value
}

function checkFile(name: string, path: string | undefined): string | undefined {
  if (path === undefined || existsSync(path)) return path
  throw invalid(`guest ${name} ${path} is missing`)
}

function invalid(message: string): SandboxError {
  return new SandboxError("invalid-argument", message)
}
