import { closeFd, Mapping, Poller, sendMessage, unixAccept, unixListen } from "@ts-vmm/native"
import { VIRTIO_F_VERSION_1 } from "../features.js"
import { Connection } from "./connection.js"
import * as defs from "./defs.js"
import * as message from "./message.js"

/** What a back end does with one request: bytes are sent as they are. */
export type Deed =
  | "honest"
  | "close"
  | "silent"
  | { readonly bytes: Uint8Array; readonly fds?: readonly number[] }

const bit = (n: number) => 1n << BigInt(n)

/** Everything that the front end of a machine makes use of. */
export const ALL_PROTOCOL_FEATURES =
  bit(defs.VHOST_USER_PROTOCOL_F_MQ) |
  bit(defs.VHOST_USER_PROTOCOL_F_REPLY_ACK) |
  bit(defs.VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
  bit(defs.VHOST_USER_PROTOCOL_F_CONFIG) |
  bit(defs.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)

/**
 * A back end that speaks the protocol and serves nothing, and does to each request what its script says: for tests of
 * front ends. Listens at `socketPath`.
 */
export class ScriptedBackend implements Disposable {
  /** Requests in the order in which they came. */
  readonly seen: number[] = []
  readonly #listener: number
  readonly #poller: Poller
  readonly #script: (request: number) => Deed
  readonly #open = new Set<Connection>()
  readonly #memory = Mapping.create({ name: "inflight", size: 4096 })

  constructor(socketPath: string, script: (request: number) => Deed) {
    this.#script = script
    this.#listener = unixListen(socketPath)
    this.#poller = new Poller(this.#listener, "readable", () => this.#accept())
  }

  /** Ends every session and listens no more. The socket's name stays. */
  close(): void {
    this.#poller.close()
    closeFd(this.#listener)
    for (const one of this.#open) one.close()
    this.#memory.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #accept(): void {
    const fd = unixAccept(this.#listener)
    if (fd === undefined) return
    const handler = {
      header: () => undefined,
      message: (header: message.MessageHeader, payload: Uint8Array) =>
        this.#answer(connection, fd, header, payload),
      ended: () => void this.#open.delete(connection),
    }
    const connection: Connection = new Connection(fd, handler, 5000)
    this.#open.add(connection)
  }

  #answer(connection: Connection, fd: number, header: message.MessageHeader, payload: Uint8Array): void {
    this.seen.push(header.request)
    const deed = this.#script(header.request)
    if (deed === "silent") return
    if (deed === "close") {
      this.#open.delete(connection)
      connection.close()
    } else if (deed === "honest") this.#honest(fd, header, payload)
    else sendMessage(fd, deed.bytes, deed.fds ?? [])
  }

  #honest(fd: number, { request, flags }: message.MessageHeader, payload: Uint8Array): void {
    const answer = honestAnswer(request, payload)
    const acknowledged = (flags & defs.VHOST_USER_NEED_REPLY_MASK) !== 0
    if (!answer && !acknowledged) return
    const fds = request === defs.VHOST_USER_GET_INFLIGHT_FD ? [this.#memory.fd] : []
    sendMessage(fd, reply(request, answer ?? message.encodeU64(0n)), fds)
  }
}

/** A reply as a back end sends it. */
export function reply(request: number, payload: Uint8Array, flags = defs.VHOST_USER_REPLY_MASK): Uint8Array {
  return message.encodeMessage(request, flags | defs.VHOST_USER_VERSION, payload)
}

function honestAnswer(request: number, payload: Uint8Array): Uint8Array | undefined {
  switch (request) {
    case defs.VHOST_USER_GET_FEATURES:
      return message.encodeU64(VIRTIO_F_VERSION_1 | bit(defs.VHOST_USER_F_PROTOCOL_FEATURES))
    case defs.VHOST_USER_GET_PROTOCOL_FEATURES:
      return message.encodeU64(ALL_PROTOCOL_FEATURES)
    case defs.VHOST_USER_GET_QUEUE_NUM:
      return message.encodeU64(1n)
    case defs.VHOST_USER_GET_CONFIG:
    case defs.VHOST_USER_GET_VRING_BASE:
      return payload.slice()
    case defs.VHOST_USER_GET_INFLIGHT_FD:
      return message.encodeInflight({ ...message.decodeInflight(payload), mmapSize: 4096n })
    default:
      return undefined
  }
}
