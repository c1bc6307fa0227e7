// What a hostile driver can put into rings that the kernel serves, with the kernel itself. Not a guest's memory but a
// test's: KVM has no part in it, but a machine that tests run in has these nodes.
import { execFileSync } from "node:child_process"
import { existsSync } from "node:fs"
import { setTimeout } from "node:timers/promises"
import { afterEach, describe, expect, test } from "vitest"
import { openTap } from "../../src/net/tap/index.js"
import { BROKEN_CHAINS, MockDriver, ODD_CHAINS } from "../../src/testing/index.js"
import { VhostNetDevice, VhostVsockDevice } from "../../src/vhost/index.js"
import { overExternal } from "../../src/vhost-user/external-port.js"

const RECEIVE = 0
const TRANSMIT = 1
const CID = 4242
const TAP = "vhost-hostile"
/** For the kernel to look at what it was given. */
const LOOK_MS = 50
/** It says so of these, whatever its version: nothing of them can be followed. */
const SURELY_BROKEN = /^Q(3: an address in a hole|9)/

const ip = (line: string) => execFileSync("ip", line.split(" "), { stdio: "pipe" })
const missing = (...paths: string[]) => paths.find(path => !existsSync(path))
const closers: (() => unknown)[] = []

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

function openCard(): VhostNetDevice {
  ip(`tuntap add ${TAP} mode tap`)
  closers.push(() => ip(`link del ${TAP}`))
  ip(`link set ${TAP} up`)
  return VhostNetDevice.open(openTap({ name: TAP }))
}

/** A frame goes out: to nobody, but the kernel takes it. */
async function sendsFrame(driver: MockDriver): Promise<void> {
  const frame = new Uint8Array(12 + 60).fill(0xff, 12, 18)
  expect(await driver.send(TRANSMIT, [driver.readable(frame)])).toMatchObject({ length: 0 })
}

const REQUEST = 1
const RST = 3
/** `type` and `op` of struct virtio_vsock_hdr. */
const TYPE_OFFSET = 28
const OP_OFFSET = 30

/** A connection to a port on which nobody listens is refused. */
async function isRefused(driver: MockDriver): Promise<void> {
  const header = new DataView(new ArrayBuffer(44))
  header.setBigUint64(0, BigInt(CID), true)
  header.setBigUint64(8, 2n, true)
  header.setUint32(16, 1234, true)
  header.setUint32(20, 65_000, true)
  header.setUint16(TYPE_OFFSET, 1, true)
  header.setUint16(OP_OFFSET, REQUEST, true)
  const answer = driver.writable(44)
  driver.post(RECEIVE, [answer])
  await driver.send(TRANSMIT, [driver.readable(new Uint8Array(header.buffer))])
  expect((await driver.nextUsed(RECEIVE)).length).toBe(44)
  expect(answer.bytes()[OP_OFFSET]).toBe(RST)
}

const noCard = missing("/dev/vhost-net", "/dev/net/tun", "/sbin/ip")

test.skipIf(noCard)(
  `N8: a tap device that is deleted stops its card, and nothing else${noCard ? ` (no ${noCard})` : ""}`,
  async () => {
    ip(`tuntap add ${TAP} mode tap`)
    const device = VhostNetDevice.open(openTap({ name: TAP }))
    closers.push(() => device.close())
    const driver = await MockDriver.attach(device, overExternal)
    closers.push(() => driver[Symbol.asyncDispose]())
    ip(`link del ${TAP}`)
    driver.post(TRANSMIT, [driver.readable(new Uint8Array(12 + 60))])
    await driver.untilBroken()
    await driver.reset({ initialise: false })
    expect(await driver.port.needsReset()).toBe(false)
    // There is nothing to serve.
    await driver.initialise()
    expect(await driver.port.needsReset()).toBe(true)
  },
)

test.skipIf(noCard)(
  `a tap device that is down loses frames, and that is all${noCard ? ` (no ${noCard})` : ""}`,
  async () => {
    const device = openCard()
    closers.push(() => device.close())
    ip(`link set ${TAP} down`)
    const driver = await MockDriver.attach(device, overExternal)
    closers.push(() => driver[Symbol.asyncDispose]())
    await sendsFrame(driver)
    ip(`link set ${TAP} up`)
    await sendsFrame(driver)
    expect(await driver.port.needsReset()).toBe(false)
  },
)

describe.each([
  {
    what: "a network card",
    lacks: noCard,
    open: openCard,
    works: sendsFrame,
  },
  {
    what: "a socket device",
    lacks: missing("/dev/vhost-vsock"),
    open: () => VhostVsockDevice.open({ guestCid: CID }),
    works: isRefused,
  },
])("$what of the kernel", ({ lacks, open, works }) => {
  async function attach(): Promise<MockDriver> {
    const device = open()
    closers.push(() => device.close())
    const driver = await MockDriver.attach(device, overExternal)
    closers.push(() => driver[Symbol.asyncDispose]())
    return driver
  }

  test("works, and does so again after each reset", async ({ skip }) => {
    if (lacks) skip(`there is no ${lacks}`)
    const driver = await attach()
    for (let round = 0; round < 5; round++) {
      await works(driver)
      await driver.reset()
    }
    await works(driver)
  })

  test.for([...BROKEN_CHAINS, ...ODD_CHAINS])(
    "$name: is over with the next reset",
    async (chain, { skip }) => {
      if (lacks) skip(`there is no ${lacks}`)
      const driver = await attach()
      chain.plant(driver, TRANSMIT)
      driver.port.kick(TRANSMIT)
      if (SURELY_BROKEN.test(chain.name)) await driver.untilBroken()
      else await setTimeout(LOOK_MS)
      await driver.reset()
      await works(driver)
    },
  )
})
