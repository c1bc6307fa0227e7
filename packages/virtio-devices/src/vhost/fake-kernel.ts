import { eventFd, SysError } from "@ts-vmm/native"
import { struct } from "@ts-vmm/vm-memory/layout"
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1 } from "../features.js"
import { VIRTIO_NET_F_MRG_RXBUF } from "../net/defs.js"
import { TUNSETOFFLOAD } from "../net/tap/defs.js"
import * as defs from "./defs.js"
import { type IoctlCall, VhostFd } from "./vhost-fd.js"

const NAMES = new Map<number, string>([
  ...Object.entries(defs.VHOST_REQUESTS).map(([name, number]) => [number, name] as const),
  [TUNSETOFFLOAD, "TUNSETOFFLOAD"],
])
/** How the argument of a request is read; of the others it is one number. */
const STRUCTURES: Readonly<Record<string, { decode(bytes: Uint8Array): object }>> = {
  VHOST_SET_VRING_NUM: struct(defs.VHOST_VRING_STATE),
  VHOST_SET_VRING_BASE: struct(defs.VHOST_VRING_STATE),
  VHOST_GET_VRING_BASE: struct(defs.VHOST_VRING_STATE),
  VHOST_SET_VRING_ADDR: struct(defs.VHOST_VRING_ADDR),
  VHOST_SET_VRING_KICK: struct(defs.VHOST_VRING_FILE),
  VHOST_SET_VRING_CALL: struct(defs.VHOST_VRING_FILE),
  VHOST_SET_VRING_ERR: struct(defs.VHOST_VRING_FILE),
  VHOST_NET_SET_BACKEND: struct(defs.VHOST_VRING_FILE),
}

/** A request as the kernel got it. */
export interface SeenRequest {
  readonly name: string
  /** Fields of its structure, its number, or the regions of a memory table. */
  readonly argument: unknown
}

/** What a kernel without `/dev/vhost-*` would be asked: keeps it, and refuses what a test wants refused. */
export class FakeKernel {
  /** Ring features and mergeable buffers as Linux has them, bits of vhost's own, and sockets that keep bounds. */
  features =
    VIRTIO_F_VERSION_1 |
    VIRTIO_F_INDIRECT_DESC |
    VIRTIO_F_EVENT_IDX |
    VIRTIO_NET_F_MRG_RXBUF |
    defs.VIRTIO_VSOCK_F_SEQPACKET |
    (1n << 24n) |
    (1n << 26n) |
    (1n << 27n)
  readonly seen: SeenRequest[] = []
  /** Request to errno. */
  readonly refused = new Map<string, number>()

  /** A request to it. */
  readonly ioctl: IoctlCall = (_fd, request, argument = 0) => {
    const name = NAMES.get(request) ?? `0x${request.toString(16)}`
    this.seen.push({ name, argument: readArgument(name, argument) })
    const errno = this.refused.get(name)
    if (errno !== undefined) throw new SysError(errno, "ioctl")
    if (name === "VHOST_GET_FEATURES") (argument as BigUint64Array)[0] = this.features
    return 0
  }

  /** A node of it. The fd is real, so that closing it is. */
  open(): VhostFd {
    return new VhostFd(eventFd(), this.ioctl)
  }

  /** Names of the requests since the last call. */
  take(): string[] {
    return this.seen.splice(0).map(({ name }) => name)
  }

  /** Arguments of all requests of this name. */
  arguments(name: string): unknown[] {
    return this.seen.filter(one => one.name === name).map(({ argument }) => argument)
  }
}

function readArgument(name: string, argument: ArrayBufferView | bigint | number): unknown {
  if (!ArrayBuffer.isView(argument)) return argument
  const bytes = new Uint8Array(argument.buffer, argument.byteOffset, argument.byteLength)
  if (name === "VHOST_SET_MEM_TABLE") return readMemoryTable(bytes)
  const structure = STRUCTURES[name]
  if (structure) return structure.decode(bytes)
  return (argument as BigUint64Array | Int32Array)[0]
}

function readMemoryTable(bytes: Uint8Array): object[] {
  const header = struct(defs.VHOST_MEMORY)
  const row = struct(defs.VHOST_MEMORY_REGION)
  const { nregions } = header.decode(bytes)
  return Array.from({ length: nregions }, (_, index) => row.decode(bytes, header.span + index * row.span))
}
