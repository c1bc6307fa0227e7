import type { VmFd } from "@ts-vmm/kvm-ioctls"
import { closeFd, drain, type ExitRow, type ExitTable, eventFd, Poller } from "@ts-vmm/native"
import {
  type AdaptivePoll,
  type ExternalDevice,
  isExternalDevice,
  type VirtioDevice,
} from "@ts-vmm/virtio-devices"
import {
  InterruptStatus,
  MmioTransport,
  VIRTIO_MMIO_INT_VRING,
  VIRTIO_MMIO_INTERRUPT_ACK,
  VIRTIO_MMIO_INTERRUPT_STATUS,
  VIRTIO_MMIO_QUEUE_NOTIFY,
  VIRTIO_MMIO_WINDOW_SIZE,
} from "@ts-vmm/virtio-devices/mmio"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import type { BusDevice } from "../bus.js"
import { Cleanup } from "../cleanup.js"
import { VmmError } from "../errors.js"
import { ExternalInterrupts } from "./external-interrupts.js"
import { IrqLine, type IrqVm } from "./irq-line.js"
import { sharedRegions } from "./shared-regions.js"

const REGISTER_SIZE = 4

/** Where a device sits and how it interrupts. */
export interface VirtioPlace {
  /** First address of the window. */
  readonly base: number
  readonly gsi: number
  /** Cell of the exit table for the interrupt status. */
  readonly cell: number
}

/** What a window is joined to. */
export interface VirtioWindowHost {
  readonly vm: IrqVm & Pick<VmFd, "registerIoevent" | "unregisterIoevent">
  readonly memory: MappedMemory
  readonly table: Pick<ExitTable, "cells" | "setActions">
  readonly poll: AdaptivePoll
  readonly onBroken: (error: Error) => void
}

/**
 * One virtio device in a machine: registers on the memory bus, an ioeventfd a queue, an irqfd. A notification
 * never stops a vCPU, and neither does the handshake of an interrupt: vCPU threads answer it by themselves.
 *
 * A device whose rings are served elsewhere gets the eventfds themselves, so that neither passes through here.
 */
export class VirtioWindow implements BusDevice {
  readonly device: VirtioDevice
  readonly place: VirtioPlace
  readonly transport: MmioTransport
  readonly #cleanup = new Cleanup()

  /**
   * @throws KvmError `ioctl`; SysError `EMFILE`; VmmError `config-invalid` for a device whose server cannot have the
   *   machine's memory, and for one with threads
   */
  constructor(device: VirtioDevice, place: VirtioPlace, host: VirtioWindowHost) {
    this.device = device
    this.place = place
    try {
      this.transport = this.#connect(host)
    } catch (error) {
      // What was made has nothing to wait for.
      void this.#cleanup.run()
      throw error
    }
  }

  read(offset: number, into: Uint8Array): void {
    this.transport.read(offset, into)
  }

  write(offset: number, from: Uint8Array): void | Promise<void> {
    return this.transport.write(offset, from)
  }

  /** How vCPU threads answer accesses to the window. */
  static rows({ base, cell }: VirtioPlace): ExitRow[] {
    const status = base + VIRTIO_MMIO_INTERRUPT_STATUS
    const acknowledge = base + VIRTIO_MMIO_INTERRUPT_ACK
    const end = base + VIRTIO_MMIO_WINDOW_SIZE
    const space = "mmio"
    const delivered = { space, read: "deliver", write: "deliver" } as const
    const rows: ExitRow[] = [
      { ...delivered, start: base, end: status },
      { space, start: status, end: status + REGISTER_SIZE, read: "cell", write: "deliver", cell },
      { ...delivered, start: status + REGISTER_SIZE, end: acknowledge },
      {
        space,
        start: acknowledge,
        end: acknowledge + REGISTER_SIZE,
        read: "deliver",
        write: "clear-bits",
        cell,
      },
      { ...delivered, start: acknowledge + REGISTER_SIZE, end },
    ]
    return rows.filter(row => row.start < row.end)
  }

  /** Makes the registers that vCPU threads answer those of a place without a device. */
  static clear({ base, cell }: VirtioPlace, { table }: Pick<VirtioWindowHost, "table">): void {
    Atomics.store(table.cells, cell, 0)
    table.setActions("mmio", base + VIRTIO_MMIO_INTERRUPT_ACK, { write: "clear-bits" })
  }

  /** Ends the device. Nothing touches guest memory once it resolves. */
  async close(): Promise<void> {
    await this.transport.close()
    if (isExternalDevice(this.device)) this.device.close()
    await this.#cleanup.run()
  }

  #connect(host: VirtioWindowHost): MmioTransport {
    const { device, place } = this
    if (device.threads)
      throw new VmmError(
        "config-invalid",
        "a device with threads is served by serveVhostUser: give the machine a VhostUserDevice that is connected to it",
      )
    const line = this.#cleanup.add(new IrqLine(host.vm, place.gsi), line => line.close())
    const external = isExternalDevice(device) ? device : undefined
    const regions = external && sharedRegions(host.memory, external.servedBy)
    const transport = new MmioTransport(device, {
      memory: host.memory,
      interruptStatus: interruptStatus(place, host, external),
      interrupt: () => line.raise(),
      inFlight: () => host.memory.mappings.reduce((sum, mapping) => sum + mapping.inFlight, 0),
      onBroken: host.onBroken,
      ...(external ? { ringFeatures: external.ringFeatures } : {}),
    })
    const kicks = device.queueSizes.map((_, queue) => this.#makeKick(queue, host))
    if (external && regions) external.attachHost({ kicks, call: line.fd, regions: () => regions })
    else for (const [queue, kick] of kicks.entries()) this.#listen(queue, kick, host)
    return transport
  }

  #makeKick(queue: number, { vm }: VirtioWindowHost): number {
    const kick = this.#cleanup.add(eventFd(), closeFd)
    const address = this.place.base + VIRTIO_MMIO_QUEUE_NOTIFY
    const event = { space: "mmio", address, datamatch: { value: queue, size: REGISTER_SIZE } } as const
    vm.registerIoevent(kick, event)
    this.#cleanup.add(event, one => vm.unregisterIoevent(kick, one))
    return kick
  }

  #listen(queue: number, kick: number, { poll }: VirtioWindowHost): void {
    const onKick = () => {
      drain(kick)
      poll.kicked(this.transport, queue)
    }
    this.#cleanup.add(new Poller(kick, "readable", onKick), poller => poller.close())
  }
}

/** A server elsewhere cannot set bits: for its interrupts they are set all the time. */
function interruptStatus(
  { base, cell }: VirtioPlace,
  { table }: VirtioWindowHost,
  external: ExternalDevice | undefined,
): InterruptStatus {
  if (!external) return new InterruptStatus(table.cells, cell)
  const acknowledge = base + VIRTIO_MMIO_INTERRUPT_ACK
  return new ExternalInterrupts(table.cells, cell, VIRTIO_MMIO_INT_VRING, write =>
    table.setActions("mmio", acknowledge, { write }),
  )
}
