import { describe, expect, test } from "vitest"
import { VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1 } from "../features.js"
import {
  VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER as DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK,
  VIRTIO_CONFIG_S_FAILED as FAILED,
  VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
  Negotiation,
} from "./negotiation.js"

const OFFER = { features: VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED | 1n, queueSizes: [256, 64] }
const ADDRESSES = { desc: 0x1000, driver: 0x2000, device: 0x3000 }

/** Up to and with FEATURES_OK. */
function negotiated(features = VIRTIO_F_VERSION_1): Negotiation {
  const negotiation = new Negotiation(OFFER)
  expect(negotiation.acknowledge(features)).toBe(true)
  return negotiation
}

describe("status", () => {
  test("takes the steps of 3.1.1 one by one", () => {
    const n = new Negotiation(OFFER)
    expect(n.writeStatus(ACKNOWLEDGE)).toBe("none")
    expect(n.writeStatus(ACKNOWLEDGE | DRIVER)).toBe("none")
    expect(n.writeFeatures(VIRTIO_F_VERSION_1 | 1n)).toBe(true)
    expect(n.writeStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK)).toBe("none")
    expect(n.negotiated).toBe(true)
    expect(n.writeStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)).toBe("activate")
    expect([n.active, n.features]).toEqual([true, VIRTIO_F_VERSION_1 | 1n])
  })

  test.each([
    { what: "features that were not offered", features: VIRTIO_F_VERSION_1 | 2n },
    { what: "features without VERSION_1", features: 1n },
  ])("T1: FEATURES_OK stays clear for $what", ({ features }) => {
    const n = new Negotiation(OFFER)
    n.writeFeatures(features)
    expect(n.writeStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK)).toBe("refused")
    expect(n.status).toBe(ACKNOWLEDGE | DRIVER)
    expect(new Negotiation(OFFER).acknowledge(features)).toBe(false)
  })

  test("T1: features are frozen from FEATURES_OK on", () => {
    const n = negotiated()
    expect(n.writeFeatures(1n)).toBe(false)
    expect(n.acknowledge(VIRTIO_F_VERSION_1)).toBe(false)
    expect(n.features).toBe(VIRTIO_F_VERSION_1)
  })

  test.each([
    { what: "DRIVER before ACKNOWLEDGE", value: DRIVER },
    { what: "FEATURES_OK before DRIVER", value: ACKNOWLEDGE | FEATURES_OK },
    { what: "DRIVER_OK before FEATURES_OK", value: ACKNOWLEDGE | DRIVER | DRIVER_OK },
    { what: "a bit that is none", value: ACKNOWLEDGE | 16 },
    { what: "a bit beyond 8", value: ACKNOWLEDGE | 256 },
  ])("T2: refuses $what and stays as it was", ({ value }) => {
    const n = new Negotiation(OFFER)
    expect(n.writeStatus(value)).toBe("refused")
    expect(n.status).toBe(0)
  })

  test("T2: bits are never taken back, and DRIVER_OK is not said twice", () => {
    const n = negotiated()
    const ok = n.status | DRIVER_OK
    expect(n.writeStatus(ACKNOWLEDGE)).toBe("refused")
    expect(n.writeStatus(ok)).toBe("activate")
    expect(n.writeStatus(ok)).toBe("refused")
    expect(n.writeStatus(ACKNOWLEDGE | DRIVER)).toBe("refused")
    expect(n.status).toBe(ok)
  })

  test("T2: FAILED may come at any time and ends set-up", () => {
    const n = negotiated()
    expect(n.writeStatus(n.status | FAILED)).toBe("none")
    expect(n.setQueueSize(0, 16)).toBe(false)
    expect(n.writeStatus(0)).toBe("reset")
    expect(n.status).toBe(0)
  })

  test("DEVICE_NEEDS_RESET is the device's bit: a driver neither sets nor clears it", () => {
    const n = negotiated()
    n.needsReset()
    const before = n.status
    expect(before & NEEDS_RESET).toBe(NEEDS_RESET)
    expect(n.writeStatus((before & ~NEEDS_RESET) | DRIVER_OK)).toBe("activate")
    expect(n.status & NEEDS_RESET).toBe(NEEDS_RESET)
    n.writeStatus(0)
    expect(n.status).toBe(0)
  })
})

describe("queues", () => {
  test("keep what was set once they are ready", () => {
    const n = negotiated()
    expect(n.setQueueSize(1, 32)).toBe(true)
    expect(n.setQueueAddresses(1, ADDRESSES)).toBe(true)
    expect(n.setQueueReady(1)).toBe(true)
    expect(n.isQueueReady(1)).toBe(true)
    expect([...n.readyQueues()]).toEqual([[1, { size: 32, ...ADDRESSES }]])
  })

  test.each([0, 3, 257, 512, 65536, -1, 1.5, Number.NaN])("T3: a size of %s is not taken", size => {
    const n = negotiated()
    expect(n.setQueueSize(0, size)).toBe(false)
    expect(n.readyQueues().size).toBe(0)
  })

  test("T3: packed rings take sizes that are no power of two (2.8)", () => {
    const n = negotiated(VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED)
    expect(n.setQueueSize(0, 200)).toBe(true)
    expect(n.setQueueSize(0, 257)).toBe(false)
  })

  test("Q18: nothing changes once a queue is ready, or after DRIVER_OK", () => {
    const n = negotiated()
    n.setQueueAddresses(0, ADDRESSES)
    n.setQueueReady(0)
    expect([n.setQueueSize(0, 16), n.setQueueAddresses(0, { desc: 0 }), n.setQueueReady(0)]).toEqual([
      false,
      false,
      false,
    ])
    n.writeStatus(n.status | DRIVER_OK)
    expect([n.setQueueSize(1, 16), n.setQueueReady(1)]).toEqual([false, false])
    expect(n.readyQueues().get(0)).toEqual({ size: 256, ...ADDRESSES })
  })

  test("cannot be set up before FEATURES_OK, nor when there is no such queue (T6)", () => {
    const fresh = new Negotiation(OFFER)
    expect([fresh.setQueueSize(0, 16), fresh.setQueueReady(0)]).toEqual([false, false])
    const n = negotiated()
    expect([n.setQueueSize(2, 16), n.setQueueReady(65535), n.queueMax(2)]).toEqual([false, false, 0])
  })

  test("can be set up again one by one, also while active, once they were reset (2.6.1)", () => {
    const ringReset = VIRTIO_F_VERSION_1 | VIRTIO_F_RING_RESET
    const n = new Negotiation({ ...OFFER, features: OFFER.features | VIRTIO_F_RING_RESET })
    n.acknowledge(ringReset)
    n.setQueueSize(0, 16)
    n.setQueueAddresses(0, ADDRESSES)
    n.setQueueReady(0)
    n.writeStatus(n.status | DRIVER_OK)
    expect([n.canResetQueue(0), n.canResetQueue(1), n.canResetQueue(2)]).toEqual([true, false, false])
    n.resetQueue(0)
    n.resetQueue(2)
    expect([n.isQueueReady(0), n.canResetQueue(0)]).toEqual([false, false])
    expect([n.setQueueSize(0, 8), n.setQueueReady(0), n.setQueueSize(0, 16)]).toEqual([true, true, false])
    // Nothing is left of what it was before; the other queue is frozen as ever.
    expect(n.readyQueues().get(0)).toEqual({ size: 8, desc: 0, driver: 0, device: 0 })
    expect(n.setQueueReady(1)).toBe(false)
  })

  test("Q18: stay stopped until a device reset when VIRTIO_F_RING_RESET was not negotiated", () => {
    const n = negotiated()
    n.setQueueReady(0)
    n.writeStatus(n.status | DRIVER_OK)
    expect(n.canResetQueue(0)).toBe(false)
    n.resetQueue(0)
    expect([n.isQueueReady(0), n.setQueueReady(0)]).toEqual([false, false])
  })

  test("start over after a reset", () => {
    const n = negotiated()
    n.setQueueSize(0, 16)
    n.setQueueReady(0)
    n.reset()
    n.acknowledge(VIRTIO_F_VERSION_1)
    n.setQueueReady(0)
    expect(n.readyQueues().get(0)?.size).toBe(256)
  })
})
