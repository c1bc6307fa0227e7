import assert from "node:assert/strict"
import type { VirtioDevice } from "../device.js"
import { VIRTIO_F_VERSION_1 } from "../features.js"
import type { FrontDoor } from "./front-door.js"
import { BROKEN_CHAINS, type HostileChain, ODD_CHAINS } from "./hostile.js"
import { MockDriver, type MockDriverOptions } from "./mock-driver.js"
import { randomSource, writeRandomRing } from "./random-ring.js"

/** A device to put through the conformance body. */
export interface ConformanceSubject {
  /** A new device, each time. */
  readonly makeDevice: () => VirtioDevice | Promise<VirtioDevice>
  /** How the driver reaches it. */
  readonly over: FrontDoor
  /** Queues whose chains the device takes as soon as it is notified. Default `[0]`. */
  readonly requestQueues?: readonly number[]
  /** One honest exchange with a device that was just initialised; throws when it does not work. */
  readonly works?: (driver: MockDriver) => Promise<void>
  /** More for `MockDriver.attach`. */
  readonly driver?: MockDriverOptions
  /** Ends what `makeDevice` made. */
  readonly dispose?: (device: VirtioDevice) => void | Promise<void>
}

/** One test. */
export interface ConformanceCase {
  /** Behaviour, with a catalogue or clause id where there is one. */
  readonly name: string
  /** Throws when the device does not conform. */
  readonly run: () => Promise<void>
}

type Body = (driver: MockDriver, subject: ConformanceSubject) => Promise<void>

/**
 * What every virtio device owes every driver, as test cases for any test runner.
 *
 * @example
 * ```ts
 * const works = async driver => expect((await driver.send(0, [driver.writable(8)])).length).toBe(8)
 * describe.each([direct, overVhostUser, overMmio])("entropy over $name", over => {
 *   test.each(deviceConformance({ makeDevice: () => new RngDevice(), over, works }))("$name", ({ run }) => run())
 * })
 * ```
 */
export function deviceConformance(subject: ConformanceSubject): ConformanceCase[] {
  const packed = { packed: true }
  return [
    onDevice(
      "T1: refuses features it did not offer, and a driver without VERSION_1",
      subject,
      refusesFeatures,
      {
        holdBack: true,
      },
    ),
    onDevice("works over split rings", subject, worksNow),
    onDevice("works over packed rings", subject, worksNow, packed),
    onDevice("works without indirect descriptors and EVENT_IDX", subject, worksNow, {
      features: withoutRingFeatures,
    }),
    onDevice("config space reads as zero past its end", subject, configEnds),
    onDevice("works again after each of many resets (T8)", subject, worksAfterResets),
    onDevice("works again after each of many resets, packed", subject, worksAfterResets, packed),
    onDevice(
      "Q19: notifications of queues that are not there are ignored",
      subject,
      ignoresStrayNotifications,
    ),
    onDevice("Q19: notifications before DRIVER_OK are ignored", subject, ignoresEarlyNotifications, {
      holdBack: true,
    }),
    onDevice("Q20: a flood of empty notifications changes nothing", subject, survivesFlood),
    onDevice("Q21: nothing is written after a reset with requests in flight", subject, dropsLateWork),
    onDevice("Q21: the same with packed rings", subject, dropsLateWork, packed),
    ...BROKEN_CHAINS.map(chain => onDevice(`${chain.name} breaks it until reset`, subject, breaksOn(chain))),
    ...ODD_CHAINS.map(chain => onDevice(`${chain.name}: it survives`, subject, survives(chain))),
    onDevice("random rings neither throw, hang nor stop it for good", subject, randomRings(false)),
    onDevice(
      "random packed rings neither throw, hang nor stop it for good",
      subject,
      randomRings(true),
      packed,
    ),
  ]
}

function onDevice(
  name: string,
  subject: ConformanceSubject,
  body: Body,
  options: MockDriverOptions = {},
): ConformanceCase {
  return {
    name,
    run: async () => {
      const device = await subject.makeDevice()
      try {
        await using driver = await MockDriver.attach(device, subject.over, { ...subject.driver, ...options })
        await body(driver, subject)
      } finally {
        await subject.dispose?.(device)
      }
    },
  }
}

function requestQueues(driver: MockDriver, subject: ConformanceSubject): readonly number[] {
  const sizes = driver.options.queueSizes
  return (subject.requestQueues ?? [0]).filter(index => sizes === undefined || (sizes[index] ?? 0) > 0)
}

const withoutRingFeatures: NonNullable<MockDriverOptions["features"]> = offered =>
  offered & ~((1n << 28n) | (1n << 29n) | (1n << 34n))

const worksNow: Body = async (driver, subject) => {
  assert.equal(await driver.port.needsReset(), false)
  await subject.works?.(driver)
  assert.equal(await driver.port.needsReset(), false)
}

const refusesFeatures: Body = async (driver, subject) => {
  const offered = await driver.port.offeredFeatures()
  const foreign = [63n, 62n, 40n, 23n].find(bit => (offered & (1n << bit)) === 0n)
  assert.ok(foreign !== undefined)
  await driver.port.reset()
  assert.equal(await driver.port.acknowledge(VIRTIO_F_VERSION_1 | (1n << foreign)), false)
  await driver.port.reset()
  assert.equal(await driver.port.acknowledge(offered & ~VIRTIO_F_VERSION_1), false)
  await driver.reset()
  await driver.port.driverOk()
  await worksNow(driver, subject)
}

const configEnds: Body = async driver => {
  for (const offset of [240, 4096 - 16, 100]) {
    const bytes = await driver.port.readConfig(offset, 16)
    assert.equal(bytes.length, 16)
    assert.ok(offset < 240 || bytes.every(byte => byte === 0))
  }
}

const worksAfterResets: Body = async (driver, subject) => {
  for (let i = 0; i < 20; i++) {
    await driver.reset()
    if (i % 5 === 0) await worksNow(driver, subject)
  }
}

const ignoresStrayNotifications: Body = async (driver, subject) => {
  for (const index of [driver.device.queueSizes.length, 1000, 65535]) driver.port.kick(index)
  await driver.port.settle()
  await worksNow(driver, subject)
}

const ignoresEarlyNotifications: Body = async (driver, subject) => {
  for (const index of driver.device.queueSizes.keys()) driver.port.kick(index)
  await driver.port.settle()
  await driver.port.driverOk()
  await worksNow(driver, subject)
}

const survivesFlood: Body = async (driver, subject) => {
  for (let i = 0; i < 20_000; i++)
    for (const index of driver.device.queueSizes.keys()) driver.port.kick(index)
  await driver.port.settle()
  await worksNow(driver, subject)
}

const MARK = 0x5a

const dropsLateWork: Body = async (driver, subject) => {
  for (const index of requestQueues(driver, subject)) {
    const buffers = Array.from({ length: 4 }, () => driver.writable(4096))
    const queue = driver.queue(index)
    for (const buffer of buffers) queue.post([driver.readable(new Uint8Array(64)), buffer])
    driver.port.kick(index)
    await driver.port.reset()
    // From here on the memory is the driver's again.
    const mark = new Uint8Array(4096).fill(MARK)
    for (const buffer of buffers) driver.memory.write(buffer.address, mark)
    const { device } = queue.config
    driver.memory.write(device, mark.subarray(0, 4))
    await driver.port.settle()
    for (const buffer of buffers) assert.deepEqual(buffer.bytes(), mark)
    const ring = new Uint8Array(4)
    driver.memory.read(device, ring)
    assert.deepEqual(ring, mark.slice(0, 4))
    await driver.initialise()
    await worksNow(driver, subject)
  }
}

function breaksOn(chain: HostileChain): Body {
  return async (driver, subject) => {
    for (const index of requestQueues(driver, subject)) {
      chain.plant(driver, index)
      driver.port.kick(index)
      await driver.untilBroken()
      // Broken it stays, whatever else comes.
      for (const other of driver.device.queueSizes.keys()) driver.port.kick(other)
      await driver.port.settle()
      assert.equal(await driver.port.needsReset(), true)
      await driver.reset()
      await worksNow(driver, subject)
    }
  }
}

function survives(chain: HostileChain): Body {
  return async (driver, subject) => {
    for (const index of driver.device.queueSizes.keys()) {
      if (driver.options.queueSizes?.[index] === 0) continue
      chain.plant(driver, index)
      driver.port.kick(index)
      await driver.port.settle()
      await driver.reset()
      await worksNow(driver, subject)
    }
  }
}

const RANDOM_ROUNDS = 60
const RESETS_EVERY = 6

function randomRings(packed: boolean): Body {
  return async (driver, subject) => {
    const random = randomSource(packed ? 0x9e3779b9 : 0x2545f491)
    for (let round = 1; round <= RANDOM_ROUNDS; round++) {
      for (const index of driver.device.queueSizes.keys()) {
        if (driver.options.queueSizes?.[index] === 0) continue
        writeRandomRing(driver, index, random)
        driver.port.kick(index)
      }
      await driver.port.settle()
      if (round % RESETS_EVERY === 0) await driver.reset()
    }
    await driver.reset()
    await worksNow(driver, subject)
  }
}
