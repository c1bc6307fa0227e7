import { tmpdir } from "node:os"
import type { UserMemoryRegion } from "@ts-vmm/kvm-ioctls"
import type { DeviceMemory, VirtioDevice } from "@ts-vmm/virtio-devices"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { MemDevice } from "@ts-vmm/virtio-devices/mem"
import { RngDevice } from "@ts-vmm/virtio-devices/rng"
import { expect, test } from "vitest"
import { placeDeviceMemory, showDeviceMemory } from "./device-memory.js"
import { createGuestRam } from "./guest-ram.js"

const MIB = 2 ** 20
const GIB = 2 ** 30
const RAM = [{ start: 0, size: MIB }]

/** A device with memory of its own, and where it was told that this is. */
function withMemory(sizes: readonly number[], alignment = 2 * MIB) {
  const told: number[] = []
  const parts = sizes.map((size, i) => ({ hostAddress: BigInt(4096 * (i + 1)), size, readOnly: i === 0 }))
  const size = sizes.reduce((sum, size) => sum + size, 0)
  const placedAt = (start: number) => void told.push(start)
  const deviceMemory: DeviceMemory = { size, alignment, parts, placedAt }
  const device: VirtioDevice = Object.assign(new RngDevice(), { deviceMemory })
  return { device, told }
}

test("device memory lies above the first 4 GiB, a slot a part, and the device is told where", () => {
  const { device, told } = withMemory([3 * 4096, 2 * MIB - 3 * 4096])
  const slots: UserMemoryRegion[] = []
  const plan = placeDeviceMemory(RAM, [new RngDevice(), device])
  showDeviceMemory({ setUserMemoryRegion: region => void slots.push(region) }, plan, 7)
  expect(slots).toEqual([
    { slot: 7, guestAddress: 5 * GIB, size: 3 * 4096, hostAddress: 4096n, flags: 2 },
    { slot: 8, guestAddress: 5 * GIB + 3 * 4096, size: 2 * MIB - 3 * 4096, hostAddress: 8192n, flags: 0 },
  ])
  expect(told).toEqual([5 * GIB])
})

test("pieces of several devices are aligned, and do not overlap", () => {
  const first = withMemory([2 * MIB])
  const second = withMemory([1 * GIB], 1 * GIB)
  placeDeviceMemory(RAM, [first.device, second.device])
  expect([...first.told, ...second.told]).toEqual([5 * GIB, 6 * GIB])
})

test("what shall be RAM becomes regions of at most 4 GiB, never right behind what the guest is told of", () => {
  const told = [...RAM, { start: 4 * GIB, size: 2 * GIB }]
  const { ram, placed } = placeDeviceMemory(told, [new MemDevice({ regionSize: 5 * GIB })])
  expect(placed).toEqual([])
  expect(ram).toEqual([
    { start: 7 * GIB, size: 4 * GIB },
    { start: 11 * GIB, size: 1 * GIB },
  ])
})

test("a DAX window is one slot, that its driver finds as region 0; Q14: buffers of devices cannot lie in it", () => {
  const device = new FsDevice(tmpdir(), { tag: "share", dax: { size: 4 * MIB }, readOnly: true })
  const slots: UserMemoryRegion[] = []
  const vm = { setUserMemoryRegion: (region: UserMemoryRegion) => void slots.push(region) }
  const plan = placeDeviceMemory(RAM, [device])
  using memory = createGuestRam(vm, 128 * MIB, { more: plan.ram })
  showDeviceMemory(vm, plan, 1)
  expect(slots[1]).toMatchObject({ slot: 1, guestAddress: 5 * GIB, size: 4 * MIB, flags: 2 })
  expect(device.sharedMemory).toEqual([{ id: 0, base: 5 * GIB, length: 4 * MIB }])
  for (const address of [5 * GIB, 5 * GIB + 4 * MIB - 1])
    expect(() => memory.slices(address, 1)).toThrow(expect.objectContaining({ code: "out-of-range" }))
  device.close()
})

test("C8: more than there are addresses is refused, and the device is told nothing", () => {
  const { device, told } = withMemory([2 ** 46])
  expect(() => placeDeviceMemory(RAM, [device])).toThrow(expect.objectContaining({ code: "exhausted" }))
  expect(told).toEqual([])
})
