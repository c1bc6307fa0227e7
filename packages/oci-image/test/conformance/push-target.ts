// A registry that takes what is pushed to it, keeps what it was asked, and answers otherwise where it is told to.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { type Digest, digestOf } from "../../src/digest.js"
import type { PushOptions, PushResult } from "../../src/registry/push.js"
import type { BlobSource } from "../../src/sources/blob.js"
import { OCI_MANIFEST } from "../../src/spec/media-types.js"
import { testClient } from "../../src/test-support/test-registry.js"
import type { Json } from "./kit.js"

/** One request as it was when its body had come. */
export interface Asked {
  readonly method: string
  /** Path and query. */
  readonly url: string
  readonly headers: IncomingMessage["headers"]
  readonly body: Buffer
}

/** What is answered; undefined is what a good registry says. */
export interface Reply {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Buffer
}

const GOOD: Readonly<Record<string, number>> = { POST: 202, PATCH: 202, PUT: 201 }

export class PushTarget implements AsyncDisposable {
  readonly asked: Asked[] = []
  /** Looked at first. */
  reply: (asked: Asked) => Reply | undefined = () => undefined
  readonly #server = createServer((request, response) => void this.#answer(request, response))

  static async start(): Promise<PushTarget> {
    const target = new PushTarget()
    await new Promise<void>(resolve => target.#server.listen(0, "127.0.0.1", resolve))
    return target
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** What was asked with a method of an address that has a part. */
  of(method: string, part = ""): Asked[] {
    return this.asked.filter(one => one.method === method && one.url.includes(part))
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", url = "", headers } = request
    const chunks: Buffer[] = []
    try {
      for await (const chunk of request) chunks.push(chunk)
    } catch {
      return // broken off by the client
    }
    const asked = { method, url, headers, body: Buffer.concat(chunks) }
    this.asked.push(asked)
    const location = `/v2/app/blobs/uploads/${this.asked.length}?s=a%2Fb`
    const reply = this.reply(asked) ?? { status: GOOD[method] ?? 404, headers: { location }, body: "" }
    response.writeHead(reply.status, reply.headers).end(method === "HEAD" ? undefined : reply.body)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise(resolve => this.#server.close(resolve))
  }
}

/** Something to push: a config, one layer, and a manifest over them. */
export class Artifact {
  readonly layer: Buffer
  readonly config = Buffer.from("{}")
  readonly manifest: Buffer
  /** What is read for the layer, if it is not the layer. */
  served: Buffer | undefined

  constructor(change: Json = {}, layer = Buffer.from("a layer")) {
    this.layer = layer
    const describe = (mediaType: string, bytes: Buffer) => ({
      mediaType,
      digest: digestOf(bytes),
      size: bytes.length,
    })
    const document = {
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: describe("application/vnd.example.config", this.config),
      layers: [describe("application/vnd.example.layer", layer)],
    }
    this.manifest = Buffer.from(`${JSON.stringify({ ...document, ...change }, null, 2)}\n`)
  }

  get digest(): Digest {
    return digestOf(this.manifest)
  }

  async push(to: PushTarget, reference = ":1", options: PushOptions = {}): Promise<PushResult> {
    const known = new Map([this.layer, this.config, this.manifest].map(bytes => [digestOf(bytes), bytes]))
    if (this.served) known.set(digestOf(this.layer), this.served)
    const blobs: BlobSource = {
      async *open({ digest }) {
        yield Buffer.from(known.get(digest) ?? "")
      },
    }
    await using client = testClient({ attempts: 2 })
    const root = { mediaType: OCI_MANIFEST, digest: this.digest, size: this.manifest.length }
    return await client.push(root, blobs, `${to.host}/app${reference}`, options)
  }
}
