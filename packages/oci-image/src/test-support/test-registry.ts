import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { digestOf } from "../digest.js"
import { DEFAULT_LIMITS } from "../limits.js"
import type { Clock } from "../registry/clock.js"
import type { HostSettings, RegistryHosts } from "../registry/hosts.js"
import { RegistryClient, type RegistryClientOptions } from "../registry/registry-client.js"
import { VerifiedBlob } from "../sources/blob.js"
import { readFoundConfig, readFoundImage } from "../sources/source.js"
import { OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST } from "../spec/media-types.js"
import { hostPlatform } from "../spec/platform.js"
import { plainLayer } from "./images.js"

/** Answers a request instead of the registry; true when it did. */
export type Fault = (request: IncomingMessage, response: ServerResponse, content?: Buffer) => boolean

type Handler = (request: IncomingMessage, response: ServerResponse) => void

/** A registry in this process, with one image `app:1`, that misbehaves as told. */
export class TestRegistry implements AsyncDisposable {
  readonly server: Server
  readonly requests: IncomingMessage[] = []
  /** Content by path below `/v2/app/`. */
  readonly content = new Map<string, { body: Buffer; type: string }>()
  readonly layer: Buffer
  readonly digest: string
  fault: Fault = () => false

  constructor(server: (handler: Handler) => Server = createServer) {
    this.layer = plainLayer([{ path: "hello", content: "x".repeat(300_000) }]).blob
    const rootfs = { type: "layers", diff_ids: [digestOf(this.layer)] }
    const { architecture } = hostPlatform()
    const config = Buffer.from(JSON.stringify({ architecture, os: "linux", config: {}, rootfs }))
    const layers = [{ mediaType: OCI_LAYER_TAR, digest: digestOf(this.layer), size: this.layer.length }]
    const pointer = { mediaType: OCI_CONFIG, digest: digestOf(config), size: config.length }
    const document = { schemaVersion: 2, mediaType: OCI_MANIFEST, config: pointer, layers }
    const manifest = Buffer.from(JSON.stringify(document))
    this.digest = digestOf(manifest)
    for (const name of ["1", this.digest])
      this.content.set(`manifests/${name}`, { body: manifest, type: OCI_MANIFEST })
    for (const body of [config, this.layer])
      this.content.set(`blobs/${digestOf(body)}`, { body, type: "application/octet-stream" })
    this.server = server((request, response) => this.#answer(request, response))
  }

  static async start(server?: (handler: Handler) => Server): Promise<TestRegistry> {
    const registry = new TestRegistry(server)
    await new Promise<void>(resolve => registry.server.listen(0, "127.0.0.1", resolve))
    return registry
  }

  get host(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }

  get layerPath(): string {
    return `blobs/${digestOf(this.layer)}`
  }

  /** How often something was asked for. */
  count(part: string, method = "GET"): number {
    return this.requests.filter(one => one.method === method && one.url?.includes(part)).length
  }

  /** Misbehaves for one path only. */
  failAt(
    part: string,
    fault: (response: ServerResponse, request: IncomingMessage, content: Buffer) => void,
  ): void {
    this.fault = (request, response, content = Buffer.alloc(0)) => {
      if (!request.url?.includes(part)) return false
      fault(response, request, content)
      return true
    }
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    this.requests.push(request)
    const found = this.content.get(request.url?.replace("/v2/app/", "") ?? "")
    if (this.fault(request, response, found?.body)) return
    if (!found) {
      response.writeHead(404).end()
      return
    }
    const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0)
    const size = found.body.length
    response.writeHead(from > 0 ? 206 : 200, {
      "content-type": found.type,
      "content-length": size - from,
      ...(request.url?.includes("/manifests/") ? { "docker-content-digest": digestOf(found.body) } : {}),
      ...(from > 0 ? { "content-range": `bytes ${from}-${size - 1}/${size}` } : {}),
    })
    response.end(found.body.subarray(from))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server.closeAllConnections()
    await new Promise(resolve => this.server.close(resolve))
  }
}

/** A clock on which nothing waits; how long it would have is kept. */
export class TestClock implements Clock {
  readonly sleeps: number[] = []
  /** Milliseconds that pass between two looks at it. */
  step = 0
  #now = 0

  now(): number {
    this.#now += this.step
    return this.#now
  }

  advance(milliseconds: number): void {
    this.#now += milliseconds
  }

  async sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted()
    this.sleeps.push(milliseconds)
  }

  random(): number {
    return 1
  }
}

/** A client that has no credentials and waits for nothing. */
export function testClient(options: RegistryClientOptions = {}): RegistryClient {
  const hosts = configOf({})
  return new RegistryClient({ credentials: async () => undefined, clock: new TestClock(), hosts, ...options })
}

/** Settings of single hosts; plain HTTP where they say nothing of trust, and to all others. */
export function configOf(hosts: Record<string, HostSettings>): RegistryHosts {
  const entries = Object.entries(hosts).map(([host, settings]): [string, HostSettings] => {
    const isSecure = settings.ca !== undefined || settings.skipVerify === true
    return [host, { plainHttp: !isSecure, ...settings }]
  })
  return new Map([...entries, ["*", { plainHttp: true }]])
}

/** Reads a whole image, as a store would. @returns its digest, proven like all that is in it */
export async function pull(client: RegistryClient, name: string, signal?: AbortSignal): Promise<string> {
  await using source = client.source(name)
  const options = { platform: hostPlatform(), limits: DEFAULT_LIMITS, signal }
  const image = await readFoundImage(await source.locate(options), source.blobs, options)
  await readFoundConfig(image, options)
  for (const layer of image.manifest.layers) {
    const blob = new VerifiedBlob(source.blobs, layer, "layer", signal)
    try {
      await blob.drain()
    } finally {
      await blob.close()
    }
  }
  return image.digest
}
