import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1 } from "../features.js"
import { VIRTIO_ID } from "../ids.js"
import { VhostUserError } from "./errors.js"

/** Device types whose back ends can be given to a guest, by the names that vhost-user programs use. */
export type VhostUserKind = "blk" | "fs" | "net"

/** What a back end said of itself. Untrusted. */
export interface BackendFacts {
  readonly features: bigint
  /** Rings it has; undefined when it does not say. */
  readonly queueCount: number | undefined
  /** Its configuration space, `configSize` bytes; undefined when it has none to give. */
  readonly config: Uint8Array | undefined
}

/** What the driver is shown of a back end. */
export interface OfferedDevice {
  readonly features: bigint
  readonly ringFeatures: bigint
  readonly queueCount: number
  readonly config: Uint8Array
}

interface Kind {
  readonly type: number
  /** Features that mean the same here as at the back end; others are not passed on. */
  readonly features: bigint
  /** Bytes of configuration space that are asked for. Not more: back ends refuse what they do not know. */
  readonly configSize: number
  readonly shape: (facts: BackendFacts, tag: string) => { queueCount: number; config: Uint8Array }
}

/** What these rings are set up for; packed ones cannot be taken up again after a back end died. */
const RING_FEATURES = VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1
/** Rings of one device: each takes an eventfd here and a thread or more there. */
const MAX_QUEUES = 8

// virtio 1.3, section 5.2.
const VIRTIO_BLK_F_MQ = 1n << 12n
/** SIZE_MAX to WRITE_ZEROES, SECURE_ERASE; the zoned ones have fields behind those asked for. */
const BLK_FEATURES = bits(1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14, 16)
const BLK_CONFIG_SIZE = 60
const BLK_NUM_QUEUES_OFFSET = 34

// virtio 1.3, section 5.1. Without control queue: nothing here answers for it.
const NET_FEATURES = bits(0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
/** Those that have fields in the configuration space: MTU, MAC, STATUS. */
const NET_CONFIG_FEATURES = bits(3, 5, 16)
const NET_CONFIG_SIZE = 12

// virtio 1.3, section 5.11. The tag and the number of request queues are the front end's to say.
const FS_TAG_SIZE = 36
const FS_CONFIG_SIZE = FS_TAG_SIZE + 4
/** One for what must not wait, one for requests. */
const FS_QUEUES = 2

const KINDS: Readonly<Record<VhostUserKind, Kind>> = {
  blk: { type: VIRTIO_ID.block, features: BLK_FEATURES, configSize: BLK_CONFIG_SIZE, shape: shapeBlk },
  net: { type: VIRTIO_ID.net, features: NET_FEATURES, configSize: NET_CONFIG_SIZE, shape: shapeNet },
  fs: { type: VIRTIO_ID.fs, features: 0n, configSize: 0, shape: shapeFs },
}

/** The virtio device type of a kind. */
export function kindType(kind: VhostUserKind): number {
  return KINDS[kind].type
}

/** Bytes of configuration space to ask a back end for; 0: none. */
export function kindConfigSize(kind: VhostUserKind): number {
  return KINDS[kind].configSize
}

/**
 * What a driver may see of a back end.
 *
 * @param tag of a file system
 * @throws VhostUserError `unsuitable` for a back end that no driver of this kind can work with
 */
export function offerBackend(kind: VhostUserKind, facts: BackendFacts, tag: string): OfferedDevice {
  if ((facts.features & VIRTIO_F_VERSION_1) === 0n)
    throw new VhostUserError("unsuitable", "the back end offers no virtio 1.0 (VIRTIO_F_VERSION_1)")
  const { features, shape } = KINDS[kind]
  const { queueCount, config } = shape(facts, tag)
  if (facts.queueCount !== undefined && facts.queueCount < queueCount)
    throw new VhostUserError(
      "unsuitable",
      `the back end has ${facts.queueCount} rings, ${kind} needs ${queueCount}`,
      { value: facts.queueCount },
    )
  const mask = facts.config || kind !== "net" ? features : features & ~NET_CONFIG_FEATURES
  return {
    features: facts.features & mask,
    ringFeatures: facts.features & RING_FEATURES,
    queueCount,
    config,
  }
}

function shapeBlk({ features, queueCount = 1, config }: BackendFacts) {
  if (!config)
    throw new VhostUserError("unsuitable", "the back end does not tell the size of its disk (no CONFIG)")
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength)
  const told = (features & VIRTIO_BLK_F_MQ) === 0n ? 1 : view.getUint16(BLK_NUM_QUEUES_OFFSET, true)
  const count = Math.max(1, Math.min(told, queueCount, MAX_QUEUES))
  // The driver sets up as many as it reads here.
  view.setUint16(BLK_NUM_QUEUES_OFFSET, count, true)
  return { queueCount: count, config }
}

function shapeNet({ config }: BackendFacts) {
  return { queueCount: 2, config: config ?? new Uint8Array(NET_CONFIG_SIZE) }
}

/** Most back ends of file systems do not know their tag. */
function shapeFs(_facts: BackendFacts, tag: string) {
  const name = new TextEncoder().encode(tag)
  if (name.length === 0 || name.length > FS_TAG_SIZE)
    throw new VhostUserError("unsuitable", `the tag "${tag}" is empty, or longer than ${FS_TAG_SIZE} bytes`)
  const config = new Uint8Array(FS_CONFIG_SIZE)
  config.set(name)
  new DataView(config.buffer).setUint32(FS_TAG_SIZE, FS_QUEUES - 1, true)
  return { queueCount: FS_QUEUES, config }
}

function bits(...numbers: number[]): bigint {
  return numbers.reduce((mask, n) => mask | (1n << BigInt(n)), 0n)
}
