import { TransportCounters } from "../../transport/counters.js"
import type { HostOptions } from "../device-host.js"
import { VhostUserError, type VhostUserErrorCode } from "../errors.js"
import type { SessionRings } from "../session-rings.js"

/** What a thread is asked for, and answers: one at a time of a session's requests, in their order. */
export type OrderName = Exclude<keyof SessionRings, "failed" | "close"> | "changed"

type OrderCalls = Pick<SessionRings, Exclude<OrderName, "changed">> & { changed(): void }
export type OrderArguments<Name extends OrderName> = Parameters<OrderCalls[Name]>
export type OrderResult<Name extends OrderName> = Awaited<ReturnType<OrderCalls[Name]>>

/** An order on its way. */
export interface Order {
  readonly order: OrderName
  readonly id: number
  readonly args: readonly unknown[]
}

/** To a thread. */
export type ToThread =
  | Order
  /** Another part of the device broke. */
  | { readonly order: "halt" }
  /** The session is over: ends once no I/O works on guest memory any more. */
  | { readonly order: "close" }

/** From a thread. */
export type FromThread =
  | {
      readonly id: number
      readonly value?: unknown
      readonly error?: ThreadError
      /** Its part of the device is in DEVICE_NEEDS_RESET. */
      readonly failed: boolean
    }
  /** Its part broke just now. */
  | { readonly broke: ThreadReason }
  /** For the device. */
  | { readonly said: unknown }

/** What a thread is started with. */
export interface ThreadStart {
  /** `DevicePart.data`. */
  readonly part: unknown
  readonly options: HostOptions
  /** Where it counts, in the order of {@link THREAD_COUNTER_NAMES}. */
  readonly counters: Float64Array
}

/** Configuration interrupts are raised, and counted, where the connection is. */
export const THREAD_COUNTER_NAMES = (
  Object.keys(new TransportCounters()) as (keyof TransportCounters)[]
).filter(name => name !== "configInterrupts")

/** Why a part broke, of what class it was over there apart. */
export interface ThreadReason {
  readonly name: string
  readonly message: string
  readonly code?: unknown
}

export function encodeReason(reason: Error & { readonly code?: unknown }): ThreadReason {
  const { name, message, code } = reason
  return typeof code === "string" ? { name, message, code } : { name, message }
}

export function decodeReason({ message, ...rest }: ThreadReason): Error {
  return Object.assign(new Error(message), rest)
}

/** An error as it goes from thread to thread: what is thrown loses its class there. */
export interface ThreadError {
  readonly code: VhostUserErrorCode
  readonly message: string
  readonly fields: { readonly request?: number; readonly queue?: number; readonly value?: number }
}

export function encodeError(thrown: unknown): ThreadError {
  if (!(thrown instanceof VhostUserError)) return { code: "internal", message: String(thrown), fields: {} }
  const { code, message, request, queue, value } = thrown
  const fields = Object.fromEntries(
    Object.entries({ request, queue, value }).filter(([, one]) => one !== undefined),
  )
  return { code, message, fields }
}

export function decodeError({ code, message, fields }: ThreadError): VhostUserError {
  return new VhostUserError(code, message, fields)
}
