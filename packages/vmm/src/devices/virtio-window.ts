import type { VmFd } from "@ts-vmm/kvm-ioctls"
import { closeFd, drain, type ExitRow, eventFd, Poller } from "@ts-vmm/native"
import type { AdaptivePoll, VirtioDevice } from "@ts-vmm/virtio-devices"
import {
  InterruptStatus,
  MmioTransport,
  VIRTIO_MMIO_INTERRUPT_ACK,
  VIRTIO_MMIO_INTERRUPT_STATUS,
  VIRTIO_MMIO_QUEUE_NOTIFY,
  VIRTIO_MMIO_WINDOW_SIZE,
} from "@ts-vmm/virtio-devices/mmio"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import type { BusDevice } from "../bus.js"
import { Cleanup } from "../cleanup.js"
import { IrqLine } from "./irq-line.js"

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
  readonly vm: Pick<VmFd, "registerIoevent" | "registerIrqfd">
  readonly memory: MappedMemory
  readonly cells: Uint32Array
  readonly poll: AdaptivePoll
  readonly onBroken: (error: Error) => void
}

/**
 * One virtio device in a machine: registers on the memory bus, an ioeventfd a queue, an irqfd. A notification
 * never stops a vCPU, and neither does the handshake of an interrupt: vCPU threads answer it by themselves.
 */
export class VirtioWindow implements BusDevice {
  readonly place: VirtioPlace
  readonly transport: MmioTransport
  readonly #cleanup = new Cleanup()

  /** @throws KvmError `ioctl`; SysError `EMFILE`. What was made until then goes with `close`. */
  constructor(device: VirtioDevice, place: VirtioPlace, host: VirtioWindowHost) {
    this.place = place
    const line = this.#cleanup.add(new IrqLine(host.vm, place.gsi), line => line.close())
    this.transport = new MmioTransport(device, {
      memory: host.memory,
      interruptStatus: new InterruptStatus(host.cells, place.cell),
      interrupt: () => line.raise(),
      inFlight: () => host.memory.mappings.reduce((sum, mapping) => sum + mapping.inFlight, 0),
      onBroken: host.onBroken,
    })
    for (let queue = 0; queue < this.transport.queueCount; queue++) this.#listen(queue, host)
  }

  read(offset: number, into: Uint8Array): void {
    this.transport.read(offset, into)
  }

  write(offset: number, from: Uint8Array): void | Promise<void> {
    return this.transport.write(offset, from)
  }

  /** How vCPU threads answer accesses to the window. */
  rows(): ExitRow[] {
    const { base, cell } = this.place
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

  /** Ends the device. Nothing touches guest memory once it resolves. */
  async close(): Promise<void> {
    await this.transport.close()
    await this.#cleanup.run()
  }

  #listen(queue: number, { vm, poll }: VirtioWindowHost): void {
    const kick = this.#cleanup.add(eventFd(), closeFd)
    const address = this.place.base + VIRTIO_MMIO_QUEUE_NOTIFY
    vm.registerIoevent(kick, { space: "mmio", address, datamatch: { value: queue, size: REGISTER_SIZE } })
    const onKick = () => {
      drain(kick)
      poll.kicked(this.transport, queue)
    }
    this.#cleanup.add(new Poller(kick, "readable", onKick), poller => poller.close())
  }
}
