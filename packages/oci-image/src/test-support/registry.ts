import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { digestOf } from "../digest.js"
import { OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST } from "../spec/media-types.js"
import { END, rawEntry } from "./raw-tar.js"

/** Answers a request instead of the registry; true when it did. */
export type Fault = (request: IncomingMessage, response: ServerResponse, content?: Buffer) => boolean

/** A registry in this process, with one image `app:1`, that misbehaves as told. */
export class TestRegistry implements AsyncDisposable {
  readonly server: Server
  readonly requests: IncomingMessage[] = []
  /** Content by path below `/v2/app/`. */
  readonly content = new Map<string, { body: Buffer; type: string }>()
  readonly layer: Buffer
  readonly digest: string
  fault: Fault = () => false

  constructor(server: (handler: (q: IncomingMessage, s: ServerResponse) => void) => Server = createServer) {
    this.layer = Buffer.concat([rawEntry({ name: "hello" }, "x".repeat(300_000)), END])
    const config = Buffer.from(
      JSON.stringify({
        architecture: "amd64",
        os: "linux",
        config: {},
        rootfs: { type: "layers", diff_ids: [digestOf(this.layer)] },
      }),
    )
    const manifest = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: OCI_MANIFEST,
        config: { mediaType: OCI_CONFIG, digest: digestOf(config), size: config.length },
        layers: [{ mediaType: OCI_LAYER_TAR, digest: digestOf(this.layer), size: this.layer.length }],
      }),
    )
    this.digest = digestOf(manifest)
    for (const name of ["1", this.digest])
      this.content.set(`manifests/${name}`, { body: manifest, type: OCI_MANIFEST })
    for (const body of [config, this.layer])
      this.content.set(`blobs/${digestOf(body)}`, { body, type: "application/octet-stream" })
    this.server = server((request, response) => this.#answer(request, response))
  }

  async listen(): Promise<this> {
    await new Promise<void>(resolve => this.server.listen(0, "127.0.0.1", resolve))
    return this
  }

  get host(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }

  /** How often something was asked for. */
  count(part: string): number {
    return this.requests.filter(({ url = "" }) => url.includes(part)).length
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    this.requests.push(request)
    const found = this.content.get(request.url?.replace("/v2/app/", "") ?? "")
    if (this.fault(request, response, found?.body)) return
    if (!found) {
      response.writeHead(404).end()
      return
    }
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0)
    const size = found.body.length
    response.writeHead(from > 0 ? 206 : 200, {
      "content-type": found.type,
      "content-length": size - from,
      ...(from > 0 ? { "content-range": `bytes ${from}-${size - 1}/${size}` } : {}),
    })
    response.end(found.body.subarray(from))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server.closeAllConnections()
    await new Promise(resolve => this.server.close(resolve))
  }
}
