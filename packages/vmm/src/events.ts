import { EventEmitter } from "node:events"
import type * as TypedEmitterModule from "typed-emitter"

/** How a machine ended. `kind` is a closed set; `description` is one phrase for a person. */
export type MachineEnd =
  /** The guest powered off. */
  | { readonly kind: "power-off"; readonly description: string }
  /** The guest asked for a reset; a Linux that panics with `panic=-1` ends like this. */
  | { readonly kind: "reset"; readonly description: string }
  /** A fault while handling a fault while handling a fault; KVM_EXIT_SHUTDOWN. */
  | { readonly kind: "triple-fault"; readonly description: string; readonly vcpu: number }
  /** The guest said that it crashed; KVM_SYSTEM_EVENT_CRASH. */
  | { readonly kind: "crash"; readonly description: string }
  /** KVM could not go on with a vCPU. */
  | { readonly kind: "failed"; readonly description: string; readonly vcpu: number }
  /** The host stopped it. */
  | { readonly kind: "stopped"; readonly description: string }

/** What a machine tells while it lives. */
export type MachineEvents = {
  /** What the guest wrote to its first serial port: untrusted bytes. The buffer is the listener's to keep. */
  console: (bytes: Uint8Array) => void
  /** A device stopped because the guest broke its protocol: it is in DEVICE_NEEDS_RESET. */
  deviceBroken: (error: Error) => void
  /** The machine has ended and holds nothing any more. Once. */
  exit: (end: MachineEnd) => void
}

/**
 * Node's emitter with the types of {@link MachineEvents}. typed-emitter is types only, and its default import
 * breaks under nodenext, so it is named here and nowhere else.
 */
export const MachineEmitter = EventEmitter as new () => TypedEmitterModule.default<MachineEvents>
