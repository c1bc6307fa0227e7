/**
 * Images from registries and to them: a client of the OCI distribution protocol.
 *
 * @packageDocumentation
 */

export type { Clock } from "./clock.js"
export { type CredentialSource, type Credentials, dockerCredentials } from "./credentials.js"
export { dockerConfigFile } from "./docker-config.js"
export { type LoginOptions, login, logout } from "./docker-login.js"
export type { ClientCertificate, HostSettings, Mirror, RegistryHosts } from "./hosts.js"
export type { WarningListener } from "./mirrors.js"
export type { ProxyEnvironment } from "./proxy-settings.js"
export type { PushOptions, PushResult } from "./push.js"
export type { Referrer } from "./referrers.js"
export { loadRegistryHosts } from "./registries-file.js"
export { RegistryClient, type RegistryClientOptions } from "./registry-client.js"
export type { TransportOptions } from "./transport.js"
export type { UploadOutcome } from "./upload.js"
