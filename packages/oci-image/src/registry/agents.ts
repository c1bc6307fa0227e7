import { Agent, type buildConnector } from "undici"
import type { HostSettings, RegistryHosts } from "./hosts.js"
import { proxyConnector } from "./proxy-connector.js"
import type { ProxyAddress } from "./proxy-settings.js"
import { patient, patientConnector } from "./socket.js"

/** Bounds on connections. */
export interface AgentOptions {
  readonly connectTimeoutMs: number
  readonly connectionsPerHost: number
}

/** Connections, kept apart by what they were made with: those of one way to be trusted must not serve another. */
export class Agents {
  readonly #options: AgentOptions
  readonly #hosts: RegistryHosts
  readonly #agents = new Map<string, Agent>()

  constructor(options: AgentOptions, hosts: RegistryHosts) {
    this.#options = options
    this.#hosts = hosts
  }

  /** Connections for hosts with such settings, by such a way. */
  agent(settings: HostSettings, proxy: ProxyAddress | undefined): Agent {
    const tls = tlsOptions(settings)
    const key = JSON.stringify([tls, proxy?.url.href, proxy?.authorization])
    const known = this.#agents.get(key)
    if (known) return known
    const { connectTimeoutMs: timeout, connectionsPerHost: connections } = this.#options
    const connect = proxy ? this.#through(proxy, tls) : patientConnector({ timeout, ...tls })
    const agent = new Agent({ connections, connect })
    this.#agents.set(key, agent)
    return agent
  }

  /** Closes every connection. */
  async close(): Promise<void> {
    await Promise.all([...this.#agents.values()].map(agent => agent.destroy()))
    this.#agents.clear()
  }

  /** A proxy with TLS is a host like any other. */
  #through(proxy: ProxyAddress, serverTls: buildConnector.BuildOptions): buildConnector.connector {
    const proxyTls = tlsOptions(this.#hosts.get(proxy.url.host) ?? {})
    return patient(proxyConnector({ proxy, proxyTls, serverTls, timeoutMs: this.#options.connectTimeoutMs }))
  }
}

function tlsOptions({
  ca,
  skipVerify = false,
  clientCertificate,
}: HostSettings): buildConnector.BuildOptions {
  return { rejectUnauthorized: !skipVerify, ...(ca === undefined ? {} : { ca }), ...clientCertificate }
}
