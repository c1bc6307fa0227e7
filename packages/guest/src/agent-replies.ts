import { GuestError } from "./errors.js"
import type { MemoryData, StatsContainerResponse, WaitProcessResponse } from "./gen/agent_pb.js"

const EXIT_STATUS_MAX = 255
const TEXT_MAX = 256
const COUNTERS_MAX = 256
const U64_MAX = 2n ** 64n - 1n

/** Bytes in use, the highest that was, and the limit (undefined: none). */
export interface MemoryUse {
  usage: number
  maxUsage: number
  limit: number | undefined
}

/** Resource use of one container. Bytes, nanoseconds and counts. */
export interface ContainerStats {
  cpu: {
    totalNs: number
    kernelNs: number
    userNs: number
    periods: number
    throttledPeriods: number
    throttledNs: number
  }
  memory: MemoryUse & { cache: number; swap: MemoryUse; counters: Map<string, number> }
  pids: { current: number; limit: number | undefined }
}

/** How a process ended. */
export interface ProcessEnd {
  /** 0..255: 128 + n when signal n ended it. */
  readonly exitCode: number
  /**
   * Bytes that its standard output carries from its first to what the process itself wrote last; a child that still
   * has it open may add more. 0 when the stream has reached its end.
   */
  readonly stdoutBytes: number
  /** The same of its standard error. With a terminal all output is on standard output. */
  readonly stderrBytes: number
}

/** An exit status as wait(2) can make it, and how much output there is. @throws GuestError "bad-reply" */
export function checkEnd(reply: WaitProcessResponse): ProcessEnd {
  const { status } = reply
  if (!Number.isInteger(status) || status < 0 || status > EXIT_STATUS_MAX)
    throw new GuestError("bad-reply", `exit status ${status} is not in 0..255`)
  return {
    exitCode: status,
    stdoutBytes: checkCount(reply.stdoutBytes),
    stderrBytes: checkCount(reply.stderrBytes),
  }
}

/** A short text without control characters. @throws GuestError "bad-reply" */
export function checkText(text: string): string {
  if (text.length <= TEXT_MAX && !/\p{Cc}/u.test(text)) return text
  throw new GuestError("bad-reply", "a name in the reply is too long or holds control characters")
}

/** A counter that a JavaScript number holds exactly. @throws GuestError "bad-reply" */
function checkCount(value: bigint | undefined): number {
  if (value === undefined) return 0
  if (value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value)
  throw new GuestError("bad-reply", `count ${value} cannot be true`)
}

/** @throws GuestError "bad-reply" */
export function checkStats(reply: StatsContainerResponse): ContainerStats {
  const cpu = reply.cgroupStats?.cpuStats
  const memory = reply.cgroupStats?.memoryStats
  const pids = reply.cgroupStats?.pidsStats
  const pidsLimit = checkCount(pids?.limit)
  return {
    cpu: {
      totalNs: checkCount(cpu?.cpuUsage?.totalUsage),
      kernelNs: checkCount(cpu?.cpuUsage?.usageInKernelmode),
      userNs: checkCount(cpu?.cpuUsage?.usageInUsermode),
      periods: checkCount(cpu?.throttlingData?.periods),
      throttledPeriods: checkCount(cpu?.throttlingData?.throttledPeriods),
      throttledNs: checkCount(cpu?.throttlingData?.throttledTime),
    },
    memory: {
      ...memoryUse(memory?.usage),
      cache: checkCount(memory?.cache),
      swap: memoryUse(memory?.swapUsage),
      counters: checkCounters(memory?.stats ?? {}),
    },
    pids: { current: checkCount(pids?.current), limit: pidsLimit === 0 ? undefined : pidsLimit },
  }
}

function memoryUse(data: MemoryData | undefined): MemoryUse {
  const limit = data === undefined || data.limit === U64_MAX ? undefined : checkCount(data.limit)
  return { usage: checkCount(data?.usage), maxUsage: checkCount(data?.maxUsage), limit }
}

function checkCounters(stats: Record<string, bigint>): Map<string, number> {
  const entries = Object.entries(stats)
  if (entries.length > COUNTERS_MAX)
    throw new GuestError("bad-reply", `${entries.length} counters in one reply`)
  return new Map(entries.map(([name, value]) => [checkText(name), checkCount(value)]))
}
