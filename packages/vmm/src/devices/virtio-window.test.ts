import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import { expect, test } from "vitest"
import { VirtioWindow, type VirtioWindowHost } from "./virtio-window.js"

test("a device with threads is refused before anything is made for it", () => {
  const device = { threads: { count: 2 } } as unknown as VirtioDevice
  const place = { base: 0, gsi: 5, cell: 0 }
  expect(() => new VirtioWindow(device, place, {} as VirtioWindowHost)).toThrow(
    expect.objectContaining({ code: "config-invalid" }),
  )
})
