import { createRequire } from "node:module"
import { builtFile } from "./built-file.js"
import { SysError } from "./errors.js"
import type { FileCalls } from "./files.js"

/** A mapping as native code sees it; {@link Mapping} is its public face. */
export interface NativeMapping {
  readonly size: number
  readonly hostAddress: bigint
  readonly fd: number
  readonly buffer: ArrayBuffer
  readonly faulted: boolean
  readonly inFlight: number
  readonly closed: boolean
  /** madvise(2) on whole pages. @returns 0 or an errno */
  advise(offset: number, size: number, advice: number): number
  close(): void
}

/** Address space that is kept; {@link Reservation} is its public face. */
export interface NativeReservation {
  readonly size: number
  readonly hostAddress: bigint
  map(offset: number, size: number, fd: number, fileOffset: number, writable: boolean): number
  clear(offset: number, size: number): number
  close(): void
}

/** A uv_poll handle. */
export interface NativePoller {
  readonly closed: boolean
  setEvents(events: number): void
  ref(): void
  unref(): void
  close(): void
}

/** The table behind an {@link ExitTable}. Actions and spaces are numbers. */
export interface NativeExitTable {
  readonly cells: ArrayBuffer
  readonly unclaimed: number
  replaceRows(rows: readonly number[]): void
  setAction(space: number, address: number, write: boolean, action: number): void
  answer(run: ArrayBuffer): boolean
  take(into: ArrayBufferView): number
}

/** A vCPU thread, which runs from its construction on. */
export interface NativeVcpuLoop {
  resume(): boolean
  pause(): void
  unpause(): void
  stop(): void
  ref(): void
  unref(): void
}

/** What the addon exports. Every function checks its arguments itself. */
export interface NativeAddon {
  setErrorClass(errorClass: typeof SysError): void
  createMapping(name: string, size: number, guard: boolean): NativeMapping
  createPrivateMapping(size: number, guard: boolean): NativeMapping
  mapFile(
    fd: number,
    offset: number,
    size: number,
    writable: boolean,
    guard: boolean,
    inMemory: boolean,
  ): NativeMapping
  mapDevice(fd: number, offset: number, size: number): NativeMapping
  readonly files: FileCalls
  eventFd(initial: number): number
  pipe(): [number, number]
  signal(fd: number, isEventFd: boolean): boolean
  drain(fd: number): number
  closeFd(fd: number): void
  duplicateFd(fd: number): number
  setNonBlocking(fd: number, on: boolean): void
  getSeals(fd: number): number
  ioctl(fd: number, request: number, arg: ArrayBufferView | bigint): number
  pollReadable(fd: number, timeoutUs: number): boolean
  lockFile(fd: number, type: number): boolean
  Poller: new (fd: number, events: number, callback: (events: number) => void) => NativePoller
  Reservation: new (size: number) => NativeReservation
  ExitTable: new (cells: number, sinkSize: number) => NativeExitTable
  VcpuLoop: new (
    fd: number,
    run: ArrayBuffer,
    table: NativeExitTable,
    name: string,
    callback: (events: number, errno: number) => void,
  ) => NativeVcpuLoop
  unixListen(path: string, mode: number, backlog: number): number
  unixAccept(fd: number): number | undefined
  unixConnect(path: string): number
  socketPair(): [number, number]
  setSendBuffer(fd: number, bytes: number): number
  peerCredentials(fd: number): [pid: number, uid: number, gid: number]
  sendMessage(fd: number, bytes: ArrayBufferView, fds: readonly number[]): number | undefined
  receiveMessage(fd: number, into: ArrayBufferView, maxFds: number, fds: number[]): number
  runSync(
    rows: ArrayBuffer,
    capacity: number,
    segmentCapacity: number,
    regions: readonly ArrayBuffer[],
    count: number,
    flags: number,
  ): void
  runAsync(
    rows: ArrayBuffer,
    capacity: number,
    segmentCapacity: number,
    regions: readonly ArrayBuffer[],
    indexes: readonly number[],
    callback: (index: number, result: number) => void,
    waits: boolean,
  ): void
  useRing(wanted: boolean): boolean
}

function load(): NativeAddon {
  const path = builtFile("tsvmm_native.node")
  let loaded: NativeAddon
  try {
    loaded = createRequire(import.meta.url)(path) as NativeAddon
  } catch (cause) {
    throw new Error(`the native addon of @ts-vmm/native cannot be loaded from ${path}: run "npm run build"`, {
      cause,
    })
  }
  loaded.setErrorClass(SysError)
  return loaded
}

/** The addon, one instance per isolate. */
export const addon: NativeAddon = load()
