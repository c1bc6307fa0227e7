import * as defs from "./defs.js"
import { VhostUserError } from "./errors.js"

/** The 12 bytes before every payload. */
export interface MessageHeader {
  /** `VHOST_USER_*` number. */
  readonly request: number
  /** Version, reply and need-reply bits. */
  readonly flags: number
  /** Payload bytes that follow. */
  readonly size: number
}

/** What a front end may send under one request number. */
export interface MessageRule {
  /** The name in the specification, for error messages. */
  readonly name: string
  readonly minSize: number
  readonly maxSize: number
  readonly minFds: number
  readonly maxFds: number
  /** A reply is part of the message itself, whether or not REPLY_ACK asks for one. */
  readonly reply: boolean
}

const U64_SIZE = 8
const VRING_STATE_SIZE = 8
const VRING_ADDR_SIZE = 40
const REGION_SIZE = 32
const REGIONS_HEAD_SIZE = 8
const LOG_SIZE = 16
export const CONFIG_HEAD_SIZE = 12
/** Four fields are 20 bytes; C front ends send the struct with its 4 bytes of padding. */
const INFLIGHT_MIN_SIZE = 20
const INFLIGHT_SIZE = 24

const rule = (
  name: string,
  size: number | readonly [number, number],
  fds: number | readonly [number, number],
  reply = false,
) => {
  const [minSize, maxSize] = typeof size === "number" ? [size, size] : size
  const [minFds, maxFds] = typeof fds === "number" ? [fds, fds] : fds
  return { name, minSize, maxSize, minFds, maxFds, reply } satisfies MessageRule
}

/** Every request this back end knows; what is not listed ends the connection. */
const RULES: ReadonlyMap<number, MessageRule> = new Map([
  [defs.VHOST_USER_GET_FEATURES, rule("GET_FEATURES", 0, 0, true)],
  [defs.VHOST_USER_SET_FEATURES, rule("SET_FEATURES", U64_SIZE, 0)],
  [defs.VHOST_USER_SET_OWNER, rule("SET_OWNER", 0, 0)],
  [defs.VHOST_USER_RESET_OWNER, rule("RESET_OWNER", 0, 0)],
  [
    defs.VHOST_USER_SET_MEM_TABLE,
    rule(
      "SET_MEM_TABLE",
      [REGIONS_HEAD_SIZE + REGION_SIZE, REGIONS_HEAD_SIZE + defs.VHOST_MEMORY_MAX_NREGIONS * REGION_SIZE],
      [1, defs.VHOST_MEMORY_MAX_NREGIONS],
    ),
  ],
  [defs.VHOST_USER_SET_LOG_BASE, rule("SET_LOG_BASE", LOG_SIZE, 1, true)],
  [defs.VHOST_USER_SET_LOG_FD, rule("SET_LOG_FD", [0, U64_SIZE], 1)],
  [defs.VHOST_USER_SET_VRING_NUM, rule("SET_VRING_NUM", VRING_STATE_SIZE, 0)],
  [defs.VHOST_USER_SET_VRING_ADDR, rule("SET_VRING_ADDR", VRING_ADDR_SIZE, 0)],
  [defs.VHOST_USER_SET_VRING_BASE, rule("SET_VRING_BASE", VRING_STATE_SIZE, 0)],
  [defs.VHOST_USER_GET_VRING_BASE, rule("GET_VRING_BASE", VRING_STATE_SIZE, 0, true)],
  [defs.VHOST_USER_SET_VRING_KICK, rule("SET_VRING_KICK", U64_SIZE, [0, 1])],
  [defs.VHOST_USER_SET_VRING_CALL, rule("SET_VRING_CALL", U64_SIZE, [0, 1])],
  [defs.VHOST_USER_SET_VRING_ERR, rule("SET_VRING_ERR", U64_SIZE, [0, 1])],
  [defs.VHOST_USER_GET_PROTOCOL_FEATURES, rule("GET_PROTOCOL_FEATURES", 0, 0, true)],
  [defs.VHOST_USER_SET_PROTOCOL_FEATURES, rule("SET_PROTOCOL_FEATURES", U64_SIZE, 0)],
  [defs.VHOST_USER_GET_QUEUE_NUM, rule("GET_QUEUE_NUM", 0, 0, true)],
  [defs.VHOST_USER_SET_VRING_ENABLE, rule("SET_VRING_ENABLE", VRING_STATE_SIZE, 0)],
  [defs.VHOST_USER_SET_BACKEND_REQ_FD, rule("SET_BACKEND_REQ_FD", [0, U64_SIZE], 1)],
  [defs.VHOST_USER_GET_CONFIG, rule("GET_CONFIG", [CONFIG_HEAD_SIZE, defs.VHOST_USER_MAX_PAYLOAD], 0, true)],
  [defs.VHOST_USER_SET_CONFIG, rule("SET_CONFIG", [CONFIG_HEAD_SIZE, defs.VHOST_USER_MAX_PAYLOAD], 0)],
  [defs.VHOST_USER_GET_INFLIGHT_FD, rule("GET_INFLIGHT_FD", [INFLIGHT_MIN_SIZE, INFLIGHT_SIZE], 0, true)],
  [defs.VHOST_USER_SET_INFLIGHT_FD, rule("SET_INFLIGHT_FD", [INFLIGHT_MIN_SIZE, INFLIGHT_SIZE], 1)],
  [defs.VHOST_USER_RESET_DEVICE, rule("RESET_DEVICE", 0, 0)],
  [defs.VHOST_USER_GET_MAX_MEM_SLOTS, rule("GET_MAX_MEM_SLOTS", 0, 0, true)],
  [defs.VHOST_USER_ADD_MEM_REG, rule("ADD_MEM_REG", U64_SIZE + REGION_SIZE, 1)],
  [defs.VHOST_USER_REM_MEM_REG, rule("REM_MEM_REG", U64_SIZE + REGION_SIZE, [0, 1])],
  [defs.VHOST_USER_SET_STATUS, rule("SET_STATUS", U64_SIZE, 0)],
  [defs.VHOST_USER_GET_STATUS, rule("GET_STATUS", 0, 0, true)],
])

/** Name of a request number for messages, e.g. `SET_VRING_NUM`, or `request 99`. */
export function requestName(request: number): string {
  return RULES.get(request)?.name ?? `request ${request}`
}

/** The native byte order of the protocol; every platform this package runs on is little-endian. */
const LE = true

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Reads the 12 header bytes. Nothing is judged; see {@link checkRequest} and {@link checkReply}. */
export function decodeHeader(bytes: Uint8Array): MessageHeader {
  const view = viewOf(bytes)
  return { request: view.getUint32(0, LE), flags: view.getUint32(4, LE), size: view.getUint32(8, LE) }
}

/**
 * Judges the header of a message from a front end before a byte of its payload is read.
 *
 * @throws VhostUserError `protocol`: unknown request, wrong version, reply or reserved flags set, a size
 *   that this request cannot have
 */
export function checkRequest(header: MessageHeader): MessageRule {
  const { request, flags, size } = header
  const allowed = defs.VHOST_USER_VERSION_MASK | defs.VHOST_USER_NEED_REPLY_MASK
  if ((flags & defs.VHOST_USER_VERSION_MASK) !== defs.VHOST_USER_VERSION || (flags & ~allowed) !== 0) {
    throw new VhostUserError(
      "protocol",
      `message flags 0x${flags.toString(16)} are not a request of version 1`,
      {
        request,
        value: flags,
      },
    )
  }
  const known = RULES.get(request)
  if (!known) throw new VhostUserError("protocol", `request ${request} is unknown`, { request })
  if (size < known.minSize || size > known.maxSize) {
    throw new VhostUserError("protocol", `${known.name} with a payload of ${size} bytes`, {
      request,
      value: size,
    })
  }
  return known
}

/**
 * Judges the header of an answer (the front end's side).
 *
 * @throws VhostUserError `protocol`: not the reply flag and version 1, another request, a size past `maxSize`
 */
export function checkReply(header: MessageHeader, request: number, maxSize: number): void {
  if (
    header.flags !== (defs.VHOST_USER_VERSION | defs.VHOST_USER_REPLY_MASK) ||
    header.request !== request ||
    header.size > maxSize
  ) {
    throw new VhostUserError(
      "protocol",
      `answer to ${requestName(request)} has request ${header.request}, flags ${header.flags}, size ${header.size}`,
      { request, value: header.size },
    )
  }
}

/** One whole message: header and payload. */
export function encodeMessage(
  request: number,
  flags: number,
  payload: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const message = new Uint8Array(defs.VHOST_USER_HEADER_SIZE + payload.length)
  const view = viewOf(message)
  view.setUint32(0, request, LE)
  view.setUint32(4, flags | defs.VHOST_USER_VERSION, LE)
  view.setUint32(8, payload.length, LE)
  message.set(payload, defs.VHOST_USER_HEADER_SIZE)
  return message
}

/** A u64 as 8 bytes. */
export function encodeU64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(U64_SIZE)
  viewOf(bytes).setBigUint64(0, value, LE)
  return bytes
}

/** The u64 payload. @throws VhostUserError `protocol` when the payload is not 8 bytes */
export function decodeU64(payload: Uint8Array): bigint {
  if (payload.length !== U64_SIZE) {
    throw new VhostUserError("protocol", `a u64 of ${payload.length} bytes`, { value: payload.length })
  }
  return viewOf(payload).getBigUint64(0, LE)
}

/** SET_VRING_NUM, BASE, ENABLE and GET_VRING_BASE. */
export interface VringState {
  /** Ring index. */
  readonly index: number
  /** Size, base or on/off, as the request says. */
  readonly num: number
}

export function encodeVringState({ index, num }: VringState): Uint8Array {
  const bytes = new Uint8Array(VRING_STATE_SIZE)
  viewOf(bytes).setUint32(0, index, LE)
  viewOf(bytes).setUint32(4, num, LE)
  return bytes
}

export function decodeVringState(payload: Uint8Array): VringState {
  const view = viewOf(payload)
  return { index: view.getUint32(0, LE), num: view.getUint32(4, LE) }
}

/** SET_VRING_ADDR; the three ring addresses are addresses in the front end's own address space. */
export interface VringAddr {
  readonly index: number
  /** `VHOST_VRING_F_LOG` or 0. */
  readonly flags: number
  readonly desc: bigint
  readonly used: bigint
  readonly avail: bigint
  /** Guest address under which writes to the used ring are logged. */
  readonly log: bigint
}

export function encodeVringAddr(addr: VringAddr): Uint8Array {
  const bytes = new Uint8Array(VRING_ADDR_SIZE)
  const view = viewOf(bytes)
  view.setUint32(0, addr.index, LE)
  view.setUint32(4, addr.flags, LE)
  view.setBigUint64(8, addr.desc, LE)
  view.setBigUint64(16, addr.used, LE)
  view.setBigUint64(24, addr.avail, LE)
  view.setBigUint64(32, addr.log, LE)
  return bytes
}

export function decodeVringAddr(payload: Uint8Array): VringAddr {
  const view = viewOf(payload)
  return {
    index: view.getUint32(0, LE),
    flags: view.getUint32(4, LE),
    desc: view.getBigUint64(8, LE),
    used: view.getBigUint64(16, LE),
    avail: view.getBigUint64(24, LE),
    log: view.getBigUint64(32, LE),
  }
}

/** One region of SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG, as sent and not yet believed. */
export interface WireRegion {
  readonly guestAddress: bigint
  readonly size: bigint
  readonly userAddress: bigint
  readonly mmapOffset: bigint
}

function decodeRegion(view: DataView, at: number): WireRegion {
  return {
    guestAddress: view.getBigUint64(at, LE),
    size: view.getBigUint64(at + 8, LE),
    userAddress: view.getBigUint64(at + 16, LE),
    mmapOffset: view.getBigUint64(at + 24, LE),
  }
}

function encodeRegion(view: DataView, at: number, region: WireRegion): void {
  view.setBigUint64(at, region.guestAddress, LE)
  view.setBigUint64(at + 8, region.size, LE)
  view.setBigUint64(at + 16, region.userAddress, LE)
  view.setBigUint64(at + 24, region.mmapOffset, LE)
}

export function encodeMemoryTable(regions: readonly WireRegion[]): Uint8Array {
  const bytes = new Uint8Array(REGIONS_HEAD_SIZE + regions.length * REGION_SIZE)
  const view = viewOf(bytes)
  view.setUint32(0, regions.length, LE)
  regions.forEach((region, i) => {
    encodeRegion(view, REGIONS_HEAD_SIZE + i * REGION_SIZE, region)
  })
  return bytes
}

/**
 * The regions of SET_MEM_TABLE. Front ends may send the whole 8-region struct; `num regions` counts.
 *
 * @throws VhostUserError `protocol`: no region, more than 8, or more than the payload holds
 */
export function decodeMemoryTable(payload: Uint8Array): WireRegion[] {
  const view = viewOf(payload)
  const count = view.getUint32(0, LE)
  const need = REGIONS_HEAD_SIZE + count * REGION_SIZE
  if (count === 0 || count > defs.VHOST_MEMORY_MAX_NREGIONS || need > payload.length) {
    throw new VhostUserError("protocol", `memory table of ${count} regions in ${payload.length} bytes`, {
      request: defs.VHOST_USER_SET_MEM_TABLE,
      value: count,
    })
  }
  return Array.from({ length: count }, (_, i) => decodeRegion(view, REGIONS_HEAD_SIZE + i * REGION_SIZE))
}

/** ADD_MEM_REG and REM_MEM_REG. */
export function encodeMemoryRegion(region: WireRegion): Uint8Array {
  const bytes = new Uint8Array(U64_SIZE + REGION_SIZE)
  encodeRegion(viewOf(bytes), U64_SIZE, region)
  return bytes
}

export function decodeMemoryRegion(payload: Uint8Array): WireRegion {
  return decodeRegion(viewOf(payload), U64_SIZE)
}

/** SET_LOG_BASE: where in the attached file the dirty log lies. */
export interface LogArea {
  readonly size: bigint
  readonly offset: bigint
}

export function decodeLogArea(payload: Uint8Array): LogArea {
  const view = viewOf(payload)
  return { size: view.getBigUint64(0, LE), offset: view.getBigUint64(8, LE) }
}

export function encodeLogArea({ size, offset }: LogArea): Uint8Array {
  const bytes = new Uint8Array(LOG_SIZE)
  viewOf(bytes).setBigUint64(0, size, LE)
  viewOf(bytes).setBigUint64(8, offset, LE)
  return bytes
}

/** GET_CONFIG and SET_CONFIG. */
export interface ConfigAccess {
  readonly offset: number
  readonly flags: number
  /** The bytes themselves, or for GET_CONFIG as many bytes as are asked for. */
  readonly data: Uint8Array
}

export function encodeConfig({ offset, flags, data }: ConfigAccess): Uint8Array {
  const bytes = new Uint8Array(CONFIG_HEAD_SIZE + data.length)
  const view = viewOf(bytes)
  view.setUint32(0, offset, LE)
  view.setUint32(4, data.length, LE)
  view.setUint32(8, flags, LE)
  bytes.set(data, CONFIG_HEAD_SIZE)
  return bytes
}

/**
 * The access, with `data` a copy.
 *
 * @throws VhostUserError `protocol`: size and payload disagree, or the access ends past 4096
 */
export function decodeConfig(payload: Uint8Array): ConfigAccess {
  const view = viewOf(payload)
  const offset = view.getUint32(0, LE)
  const size = view.getUint32(4, LE)
  if (size !== payload.length - CONFIG_HEAD_SIZE || offset + size > defs.VHOST_USER_CONFIG_LIMIT) {
    throw new VhostUserError("protocol", `configuration access of ${size} bytes at ${offset}`, {
      request: defs.VHOST_USER_GET_CONFIG,
      value: offset + size,
    })
  }
  return { offset, flags: view.getUint32(8, LE), data: payload.slice(CONFIG_HEAD_SIZE) }
}

/** GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
export interface InflightArea {
  readonly mmapSize: bigint
  readonly mmapOffset: bigint
  readonly numQueues: number
  readonly queueSize: number
}

export function encodeInflight(area: InflightArea): Uint8Array {
  const bytes = new Uint8Array(INFLIGHT_SIZE)
  const view = viewOf(bytes)
  view.setBigUint64(0, area.mmapSize, LE)
  view.setBigUint64(8, area.mmapOffset, LE)
  view.setUint16(16, area.numQueues, LE)
  view.setUint16(18, area.queueSize, LE)
  return bytes
}

export function decodeInflight(payload: Uint8Array): InflightArea {
  const view = viewOf(payload)
  return {
    mmapSize: view.getBigUint64(0, LE),
    mmapOffset: view.getBigUint64(8, LE),
    numQueues: view.getUint16(16, LE),
    queueSize: view.getUint16(18, LE),
  }
}
