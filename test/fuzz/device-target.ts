import { ok } from "node:assert"
import { setImmediate } from "node:timers/promises"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { type ChainMaker, type DeviceCase, type DeviceStep, randomDeviceCase } from "./device-cases.js"
import { DeviceRig, type Negotiated } from "./device-rig.js"
import { fuzz } from "./harness.js"

const HONEST: Negotiated = { packed: false, indirect: true, eventIdx: false }

/** A device, chains for it, and what must still work after the worst of drivers. */
export interface DeviceTarget {
  readonly name: string
  readonly share: number
  readonly queues: number
  readonly chain: ChainMaker
  make(): { rig: DeviceRig; close(): void; host?(what: number): void }
  /** An honest driver's request. */
  probe(rig: DeviceRig): Promise<void>
  /** Faults besides broken rings that a guest may bring about. */
  mayFail?(reason: Error): boolean
}

/** Random drivers for a device: it must neither break without reason nor be broken for an honest one afterwards. */
export function fuzzDevice(target: DeviceTarget): void {
  let made: ReturnType<DeviceTarget["make"]>
  fuzz<DeviceCase>({
    name: target.name,
    share: target.share,
    setUp() {
      made = target.make()
    },
    tearDown() {
      made.rig.runtime.reset()
      made.close()
      made.rig.memory.close()
    },
    generate: random => randomDeviceCase(random, target.queues, target.chain),
    async run({ negotiated, features, steps }) {
      const { rig } = made
      rig.start(negotiated, features)
      for (const step of steps) {
        if (step.do === "host") made.host?.(step.what)
        else await perform(rig, step, negotiated, features)
        rig.checkFault(target.mayFail)
      }
      await setImmediate()
      rig.checkFault(target.mayFail)
      rig.start(HONEST)
      await target.probe(rig)
      ok(rig.runtime.broken === undefined, "honest driver broke the device")
    },
  })
}

async function perform(
  rig: DeviceRig,
  step: Exclude<DeviceStep, { do: "host" }>,
  negotiated: Negotiated,
  features: bigint,
): Promise<void> {
  switch (step.do) {
    case "chain":
      rig.post(step.queue, step.pieces, step.indirectAt < 0 ? undefined : step.indirectAt)
      return
    case "raw":
      return rig.postRaw(step.queue, step.slot, step.descriptor)
    case "kick":
      return rig.kick(step.queue)
    case "turn":
      await setImmediate()
      return
    case "reset":
      return rig.start(negotiated, features)
    case "config":
      rig.device.writeConfig?.(step.offset, step.bytes)
      return rig.device.readConfig?.(step.offset, new Uint8Array(step.bytes.length))
    case "scribble":
      rig.memory.write(Math.min(step.at, 0x4_ff00), step.bytes)
  }
}

/** A rig for `make`. */
export function rigFor(
  device: ConstructorParameters<typeof DeviceRig>[0],
  close: () => void = () => undefined,
) {
  const memory: MappedMemory = DeviceRig.memory()
  return { rig: new DeviceRig(device, memory), close }
}
