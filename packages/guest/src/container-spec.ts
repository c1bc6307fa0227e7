import type { MessageInitShape } from "@bufbuild/protobuf"
import type {
  LinuxResourcesSchema,
  MountSchema,
  POSIXRlimitSchema,
  ProcessSchema,
  SpecSchema,
} from "./gen/oci_pb.js"

/** What a container's program may do as root: docker's default set, without making device nodes. */
export const DEFAULT_CAPABILITIES: readonly string[] = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FSETID",
  "CAP_FOWNER",
  "CAP_NET_RAW",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETFCAP",
  "CAP_SETPCAP",
  "CAP_NET_BIND_SERVICE",
  "CAP_SYS_CHROOT",
  "CAP_KILL",
  "CAP_AUDIT_WRITE",
]

/** Kernel interfaces a container does not see. */
export const DEFAULT_MASKED_PATHS: readonly string[] = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/timer_list",
  "/proc/sched_debug",
  "/proc/scsi",
  "/proc/sysrq-trigger",
  "/sys/firmware",
]

/** Kernel interfaces a container may only read. */
export const DEFAULT_READONLY_PATHS: readonly string[] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]

/** Mounts of every container, in order. */
export const DEFAULT_MOUNTS: readonly MessageInitShape<typeof MountSchema>[] = [
  { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
  {
    destination: "/dev",
    type: "tmpfs",
    source: "tmpfs",
    options: ["nosuid", "noexec", "mode=755", "size=65536k"],
  },
  {
    destination: "/dev/pts",
    type: "devpts",
    source: "devpts",
    options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
  },
  {
    destination: "/dev/shm",
    type: "tmpfs",
    source: "shm",
    options: ["nosuid", "noexec", "nodev", "mode=1777"],
  },
  { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
  {
    destination: "/sys/fs/cgroup",
    type: "cgroup",
    source: "cgroup",
    options: ["nosuid", "noexec", "nodev", "ro"],
  },
]

/** One process, as a container runtime's user thinks of it. */
export interface ProcessSpecOptions {
  args: readonly string[]
  /** `NAME=value`. HOME is added by the agent when it is missing. */
  env?: readonly string[]
  /** Absolute; made when it is missing. Default `/`. */
  cwd?: string
  /** As docker's `-u`: name, uid, name:group, uid:gid; looked up inside the container. Default root. */
  user?: string
  /** Give it a terminal instead of three pipes. */
  terminal?: boolean
  /** Rows and columns of that terminal. */
  size?: { rows: number; columns: number } | undefined
  capabilities?: readonly string[]
  rlimits?: readonly MessageInitShape<typeof POSIXRlimitSchema>[]
  noNewPrivileges?: boolean
  oomScoreAdj?: number
}

/** A container: its first process and what surrounds it. */
export interface ContainerSpecOptions extends ProcessSpecOptions {
  /** Where the storages of the container mount its root file system, in the guest. */
  rootPath: string
  readonly?: boolean
  hostname?: string
  /** Beside {@link DEFAULT_MOUNTS}. */
  mounts?: readonly MessageInitShape<typeof MountSchema>[]
  resources?: MessageInitShape<typeof LinuxResourcesSchema>
  sysctl?: Record<string, string>
}

/**
 * A process with docker's defaults, for execProcess.
 *
 * @example
 * ```ts
 * await agent.execProcess({ containerId: "c", execId: "e1", process: processSpec({ args: ["ls", "/"] }) })
 * ```
 */
export function processSpec(options: ProcessSpecOptions): MessageInitShape<typeof ProcessSchema> {
  const capabilities = [...(options.capabilities ?? DEFAULT_CAPABILITIES)]
  const { size } = options
  return {
    Terminal: options.terminal ?? false,
    ...(size ? { ConsoleSize: { Height: size.rows, Width: size.columns } } : {}),
    User: { Username: options.user ?? "" },
    Args: [...options.args],
    Env: [...(options.env ?? [])],
    Cwd: options.cwd ?? "/",
    Capabilities: { Bounding: capabilities, Effective: capabilities, Permitted: capabilities },
    Rlimits: [...(options.rlimits ?? [])],
    NoNewPrivileges: options.noNewPrivileges ?? false,
    OOMScoreAdj: BigInt(options.oomScoreAdj ?? 0),
  }
}

/**
 * A container with docker's defaults: namespaces, mounts, capabilities, masked paths.
 *
 * @example
 * ```ts
 * const OCI = containerSpec({ rootPath: "/run/tsvmm/c/rootfs", args: ["/bin/sh"], terminal: true })
 * ```
 */
export function containerSpec(options: ContainerSpecOptions): MessageInitShape<typeof SpecSchema> {
  return {
    Version: "1.1.0",
    Process: processSpec(options),
    Root: { Path: options.rootPath, Readonly: options.readonly ?? false },
    Hostname: options.hostname ?? "",
    Mounts: [...DEFAULT_MOUNTS, ...(options.mounts ?? [])],
    Linux: {
      Sysctl: options.sysctl ?? {},
      ...(options.resources ? { Resources: options.resources } : {}),
      Namespaces: ["mount", "pid", "uts", "ipc", "cgroup"].map(Type => ({ Type })),
      MaskedPaths: [...DEFAULT_MASKED_PATHS],
      ReadonlyPaths: [...DEFAULT_READONLY_PATHS],
    },
  }
}
