/**
 * Images from registries: the pulling half of the OCI distribution protocol.
 *
 * @packageDocumentation
 */

export {
  type CredentialSource,
  type Credentials,
  dockerConfigFile,
  dockerCredentials,
} from "./credentials.js"
export { type HostSettings, loadRegistryHosts, type RegistryHosts } from "./hosts.js"
export { RegistryClient, type RegistryClientOptions } from "./registry-client.js"
export type { TransportOptions } from "./transport.js"
