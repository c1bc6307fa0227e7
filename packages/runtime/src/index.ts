/**
 * Sandboxes: OCI images on a Linux kernel of their own.
 *
 * @packageDocumentation
 */
export type { ContainerChange } from "@ts-vmm/guest"
export type { BalloonStatistics } from "@ts-vmm/virtio-devices/balloon"
export type { AttachedNetwork, NetworkAttachment } from "./attach/networks.js"
export type { SandboxTimings } from "./boot.js"
export { ConsoleLog, escapeControls } from "./console-log.js"
export type { ContainerCommitOptions } from "./container/commit.js"
export {
  Container,
  type ContainerOptions,
  type ExecOptions,
  type ExecResult,
  type SpawnOptions,
} from "./container/container.js"
export type { CopyInOptions, CopyOutOptions } from "./container/copy.js"
export { type ProcessEvent, type ProcessExit, SandboxProcess } from "./container/process.js"
export type { ProcessOptions, TerminalSize } from "./container/spec.js"
export type { MountType, SandboxMount } from "./container/volumes.js"
export type { PreparedCopy } from "./copy/source.js"
export { type CopySummary, type UnpackOptions, unpackCopy } from "./copy/unpack.js"
export type { CpuReport, SandboxCpus } from "./cpus/sandbox-cpus.js"
export type { WaitOptions } from "./deadline.js"
export { ExecError, SandboxError, type SandboxErrorCode } from "./errors.js"
export type { SandboxEvents, SandboxExitReason } from "./events.js"
export { type NamedProbe, probeHypervisors } from "./hypervisor/choose.js"
export type {
  DeviceSlots,
  Hypervisor,
  HypervisorName,
  HypervisorProbe,
  Machine,
  MachineExit,
  MachineSpec,
  UmlMode,
} from "./hypervisor/hypervisor.js"
export { KvmHypervisor, type KvmOptions } from "./hypervisor/kvm/kvm-hypervisor.js"
export { type KvmProbe, probeKvm } from "./hypervisor/kvm/probe.js"
export { UmlHypervisor, type UmlOptions } from "./hypervisor/uml/uml-hypervisor.js"
export type { PullPolicy } from "./images.js"
export type { MemoryChange, MemoryReport } from "./memory/control.js"
export type { MemorySizes, SandboxMemory } from "./memory/sandbox-memory.js"
export type { CniNetworkOptions, GuestNetworkOptions, NetworkMode, PublishedPort } from "./network/options.js"
export type { SandboxOptions } from "./options.js"
export { defaultPaths, defaultPolicyFile, defaultRegistriesFile, type RuntimePaths } from "./paths.js"
export {
  type CommittedImage,
  commitSandbox,
  copyIntoSandbox,
  copyOutOfSandbox,
  diffSandbox,
  type RemoteCopyInOptions,
  removeSandbox,
  sandboxCpus,
  sandboxMemory,
  signalSandbox,
} from "./remote.js"
export type { ImageDevice, SandboxRootfs } from "./root/options.js"
export { Sandbox } from "./sandbox.js"
export type { SandboxRecord, SandboxStatus } from "./state/record.js"
export type { SandboxStorage } from "./storage/options.js"
export { openTrustGate } from "./trust.js"
