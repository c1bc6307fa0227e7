export { AgentClient, type GuestDetails, type ProcessRef } from "./agent-client.js"
export { type AgentInitramfsOptions, SANDBOX_MODULES, writeAgentInitramfs } from "./agent-initramfs.js"
export type { ContainerStats, MemoryUse, ProcessEnd } from "./agent-replies.js"
export { type GuestArtifacts, guestArtifacts } from "./artifacts.js"
export { ChangeListReader, type ContainerChange } from "./changes.js"
export {
  type ContainerSpecOptions,
  containerSpec,
  DEFAULT_CAPABILITIES,
  DEFAULT_MASKED_PATHS,
  DEFAULT_MOUNTS,
  DEFAULT_READONLY_PATHS,
  type ProcessSpecOptions,
  processSpec,
} from "./container-spec.js"
export { GuestError, type GuestErrorCode, type GuestErrorDetails } from "./errors.js"
export * from "./gen/agent_pb.js"
export * from "./gen/files_pb.js"
export * from "./gen/health_pb.js"
export * from "./gen/oci_pb.js"
export * from "./gen/plug_pb.js"
export { type InitramfsEntry, writeInitramfs } from "./initramfs.js"
export { kernelModuleFiles } from "./kernel-modules.js"
export { type CallOptions, TtrpcClient, type TtrpcClientOptions } from "./ttrpc/client.js"
export * from "./ttrpc/frame.js"
export { RpcStatusError, type ServiceHandlers, TtrpcServer } from "./ttrpc/server.js"
export { GRPC_STATUS } from "./ttrpc/status.js"
