/**
 * Networks by CNI plugins: reads configurations, runs plugins by the exec protocol, and keeps a record of what they were
 * asked to add until it is deleted.
 *
 * @packageDocumentation
 */
export type { Cidr } from "./addresses.js"
export type { CniAttachment, CniCapabilityArgs, CniPortMapping } from "./attachment.js"
export {
  Cni,
  type CniAttachmentId,
  type CniCallOptions,
  type CniOptions,
  DEFAULT_PLUGIN_DIRS,
} from "./cni.js"
export {
  type CniNetwork,
  type CniPlugin,
  DEFAULT_CONF_DIR,
  loadNetwork,
  parseNetwork,
} from "./configuration.js"
export { CniError, type CniErrorCode, type CniErrorDetails } from "./errors.js"
export type { CniAddress, CniDns, CniInterface, CniResult, CniRoute } from "./result.js"
export { CNI_VERSIONS, type CniVersion } from "./versions.js"
