import { KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, type VcpuExit } from "@ts-vmm/kvm-ioctls"
import type { InterruptController } from "./arch/x86-64/irqchip.js"
import type { Bus } from "./bus.js"
import type { MachineEnd } from "./events.js"

/** What an exit can reach. */
export interface ExitHost {
  readonly ports: Bus
  readonly mmio: Bus
  readonly interrupts: Pick<InterruptController, "onEoi">
  /** The machine ends; called once at most by what is here, later calls do nothing. */
  end(reason: MachineEnd): void
}

/** For a vCPU that must not go on: it is stopped while it waits for this. */
const NEVER = new Promise<void>(() => undefined)

/**
 * Answers one exit of vCPU `vcpu`. What the guest does wrong never throws: it reads ones, or its machine ends.
 *
 * @returns a promise when the vCPU has to wait
 */
export function handleExit(host: ExitHost, vcpu: number, exit: VcpuExit): void | Promise<void> {
  switch (exit.reason) {
    case "io":
      return transferPort(host.ports, exit)
    case "mmio":
      return exit.isWrite ? host.mmio.write(exit.address, exit.data) : host.mmio.read(exit.address, exit.data)
    case "ioapic-eoi":
      return host.interrupts.onEoi?.(exit.vector)
    case "intr":
      return
    default:
      host.end(endOf(vcpu, exit))
      return NEVER
  }
}

/** A string instruction moves several units with one exit. */
function transferPort(ports: Bus, exit: VcpuExit & { reason: "io" }): void | Promise<void> {
  const { port, size, count, data, direction } = exit
  if (count === 1) return direction === "in" ? ports.read(port, data) : ports.write(port, data)
  for (let at = 0; at < count * size; at += size) {
    const unit = data.subarray(at, at + size)
    if (direction === "in") ports.read(port, unit)
    else ports.write(port, unit)
  }
}

function endOf(vcpu: number, exit: VcpuExit): MachineEnd {
  switch (exit.reason) {
    case "shutdown":
      return { kind: "triple-fault", vcpu, description: `triple fault of vCPU ${vcpu}` }
    case "system-event":
      return systemEvent(exit)
    default:
      return { kind: "failed", vcpu, description: `KVM stopped vCPU ${vcpu}: ${describeExit(exit)}` }
  }
}

function systemEvent({ type }: VcpuExit & { reason: "system-event" }): MachineEnd {
  if (type === KVM_SYSTEM_EVENT_SHUTDOWN) return { kind: "power-off", description: "the guest powered off" }
  if (type === KVM_SYSTEM_EVENT_RESET) return { kind: "reset", description: "the guest reset the machine" }
  return { kind: "crash", description: `the guest reported a crash (system event ${type})` }
}

/** The exit's reason and numbers in one line; data of the guest is left out. */
function describeExit(exit: VcpuExit): string {
  const numbers = Object.entries(exit).filter(
    ([, value]) => typeof value === "number" || typeof value === "bigint",
  )
  return [exit.reason, ...numbers.map(([name, value]) => `${name} 0x${value.toString(16)}`)].join(", ")
}
