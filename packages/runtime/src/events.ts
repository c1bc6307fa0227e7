import { EventEmitter } from "node:events"
import type * as TypedEmitterModule from "typed-emitter"

/** What a sandbox tells while it lives. */
export type SandboxEvents = {
  /** The agent answers; containers can be made. */
  ready: () => void
  /** A piece of the guest kernel's console: untrusted bytes, never to be written to a terminal unescaped. */
  console: (chunk: Buffer) => void
  /** The guest's kernel killed a process of this container for want of memory. */
  oom: (containerId: string) => void
  /** The guest has not answered for this long, in milliseconds: `watchdogMs`. Once, until it answers again. */
  unresponsive: (silentMs: number) => void
  /** It answers again. */
  responsive: () => void
  /** The guest has ended, for whatever reason. Once. */
  exit: (reason: SandboxExitReason) => void
  /** Something failed that no caller is waiting for. */
  error: (error: Error) => void
}

/** Why a sandbox's machine ended. */
export interface SandboxExitReason {
  /** True when `stop`, `kill` or dispose asked for it. */
  readonly requested: boolean
  /** The last lines of the guest's console, control characters escaped: for messages to people. */
  readonly lastConsoleLines: string
}

/**
 * Node's emitter with the types of {@link SandboxEvents}. typed-emitter is types only, and its default
 * import breaks under nodenext, so it is named here and nowhere else.
 */
export const SandboxEmitter = EventEmitter as new () => TypedEmitterModule.default<SandboxEvents>
