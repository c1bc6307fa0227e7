import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { Mapping } from "@ts-vmm/native"
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest"
import { MockDriver } from "../testing/mock-driver.js"
import * as defs from "./defs.js"
import type { VhostUserErrorCode } from "./errors.js"
import { type ExternalPort, overExternal } from "./external-port.js"
import { VhostUserDevice } from "./frontend-device.js"
import * as message from "./message.js"
import { settledFds } from "./raw-peer.js"
import { type Deed, reply, ScriptedBackend } from "./scripted-backend.js"

/** How long an answer may take, by a clock that moves only when a test says so. */
const TIMEOUT_MS = 250
/** Every answer that a connection waits for, in order. */
const HELLO = [
  "GET_FEATURES",
  "GET_PROTOCOL_FEATURES",
  "SET_OWNER",
  "SET_BACKEND_REQ_FD",
  "GET_QUEUE_NUM",
  "GET_CONFIG",
] as const
/** And an activation. */
const START = [
  "SET_FEATURES",
  "SET_MEM_TABLE",
  "GET_INFLIGHT_FD",
  "SET_INFLIGHT_FD",
  "SET_VRING_CALL",
  "SET_VRING_NUM",
  "SET_VRING_BASE",
  "SET_VRING_ADDR",
  "SET_VRING_KICK",
  "SET_VRING_ENABLE",
] as const
type Name = (typeof HELLO)[number] | (typeof START)[number]
const NUMBERS: Readonly<Record<string, number | bigint>> = defs
const numberOf = (name: Name | "GET_VRING_BASE") => NUMBERS[`VHOST_USER_${name}`]

interface Fault {
  readonly what: string
  readonly deed: (request: number) => Deed
  readonly codes: readonly VhostUserErrorCode[]
}
const u64 = (value: bigint) => message.encodeU64(value)
const FAULTS: readonly Fault[] = [
  { what: "the connection closes", deed: () => "close", codes: ["disconnected"] },
  { what: "nothing comes", deed: () => "silent", codes: ["timeout"] },
  { what: "another request's answer", deed: r => ({ bytes: reply(r + 1, u64(0n)) }), codes: ["protocol"] },
  { what: "no reply flag", deed: r => ({ bytes: reply(r, u64(0n), 0) }), codes: ["protocol"] },
  { what: "5,000 bytes", deed: r => ({ bytes: reply(r, new Uint8Array(5000)) }), codes: ["protocol"] },
  { what: "no payload", deed: r => ({ bytes: reply(r, new Uint8Array(0)) }), codes: ["protocol"] },
  { what: "half an answer", deed: r => ({ bytes: reply(r, u64(0n)).subarray(0, 14) }), codes: ["timeout"] },
]

let folder: string
let socketPath: string
let backend: ScriptedBackend | undefined

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
  folder = mkdtempSync(join(tmpdir(), "hostile-"))
  socketPath = join(folder, "socket")
})
afterEach(() => {
  vi.useRealTimers()
  backend?.close()
  backend = undefined
  rmSync(folder, { recursive: true })
})

const serve = (script: (request: number) => Deed) => {
  backend = new ScriptedBackend(socketPath, script)
}
const connect = () =>
  VhostUserDevice.connect({ kind: "blk", socketPath, timeoutMs: TIMEOUT_MS, reconnect: false })
/** Lets the time for this answer run out, and not that for one before it, to which a busy machine came late. */
const inTime = (deed: Deed, codes: readonly VhostUserErrorCode[]): Deed => {
  if (codes.includes("timeout")) setImmediate(() => vi.advanceTimersByTime(TIMEOUT_MS))
  return deed
}
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => "none",
    (error: Error & { code?: string }) => `${error.name} ${error.code}`,
  )

describe("H7: a back end that fails at any message while a device connects", () => {
  test.each(HELLO.flatMap(name => FAULTS.map(fault => ({ name, ...fault }))))(
    "$name: $what",
    async ({ name, deed, codes }) => {
      const before = await settledFds()
      serve(request => (request === numberOf(name) ? inTime(deed(request), codes) : "honest"))
      expect(codes.map(code => `VhostUserError ${code}`)).toContain(await failure(connect()))
      backend?.close()
      backend = undefined
      expect(await settledFds()).toBe(before)
    },
  )
})

describe("H7: a back end that fails at any message while its rings are set up", () => {
  test.each(START.flatMap(name => FAULTS.map(fault => ({ name, ...fault }))))(
    "$name: $what",
    async ({ name, deed, codes }) => {
      const before = await settledFds()
      serve(request => (request === numberOf(name) ? inTime(deed(request), codes) : "honest"))
      expect(codes).toContain(await brokenBy(await connect()))
      backend?.close()
      backend = undefined
      expect(await settledFds()).toBe(before)
    },
  )

  test.each(START.filter(name => name !== "GET_INFLIGHT_FD"))("%s refused", async name => {
    serve(r => (r === numberOf(name) ? { bytes: reply(r, u64(1n)) } : "honest"))
    expect(await brokenBy(await connect())).toBe("refused")
  })
})

/** Activates a device that is to break. @returns the code of why */
async function brokenBy(device: VhostUserDevice): Promise<string | undefined> {
  const driver = await MockDriver.attach(device, overExternal)
  try {
    await driver.untilBroken()
    const { transport } = driver.port as ExternalPort
    expect(transport.counters.deviceErrors).toBe(1)
    // Reset and tried again it says the same, at once.
    await driver.port.reset()
    return await again(driver)
  } finally {
    await driver[Symbol.asyncDispose]()
    device.close()
  }
}

async function again(driver: MockDriver): Promise<string | undefined> {
  let reason: (Error & { code?: string }) | undefined
  const device = driver.device as VhostUserDevice
  device.activate({
    features: 0n,
    queueConfig: () => undefined,
    fail: (error: Error) => {
      reason = error
    },
  } as unknown as Parameters<VhostUserDevice["activate"]>[0])
  device.reset()
  await device.idle()
  return reason?.code
}

describe("H7: answers that cannot be used", () => {
  const answering = (name: Name, payload: Uint8Array, fds: readonly number[] = []) =>
    serve(r => (r === numberOf(name) ? { bytes: reply(r, payload), fds } : "honest"))

  test("no virtio 1.0", async () => {
    answering("GET_FEATURES", u64(1n << BigInt(defs.VHOST_USER_F_PROTOCOL_FEATURES)))
    expect(await failure(connect())).toBe("VhostUserError unsuitable")
  })

  test("no rings at all", async () => {
    answering("GET_QUEUE_NUM", u64(0n))
    expect(await failure(connect())).toBe("VhostUserError unsuitable")
  })

  test("2^64 - 1 rings, 65,535 of them in the configuration: the driver is shown eight", async () => {
    const config = new Uint8Array(60).fill(0xff)
    const features = (1n << 32n) | (1n << 30n) | (1n << 12n)
    serve(r => {
      if (r === defs.VHOST_USER_GET_QUEUE_NUM) return { bytes: reply(r, u64(2n ** 64n - 1n)) }
      if (r === defs.VHOST_USER_GET_FEATURES) return { bytes: reply(r, u64(features)) }
      if (r !== defs.VHOST_USER_GET_CONFIG) return "honest"
      return { bytes: reply(r, message.encodeConfig({ offset: 0, flags: 0, data: config })) }
    })
    const device = await connect()
    expect(device.queueSizes).toHaveLength(8)
    const count = new Uint8Array(2)
    device.readConfig(34, count)
    expect([...count]).toEqual([8, 0])
    device.close()
  })

  test("H10: a configuration space shorter than asked for, or of another place", async () => {
    answering("GET_CONFIG", message.encodeConfig({ offset: 0, flags: 0, data: new Uint8Array(8) }))
    expect(await failure(connect())).toMatch(/^VhostUserError (refused|protocol)$/)
  })

  test("H2: an in-flight area without memory, with a closed door, or with eight", async () => {
    const before = await settledFds()
    using memory = Mapping.create({ name: "x", size: 4096 })
    const area = message.encodeInflight({ mmapSize: 4096n, mmapOffset: 0n, numQueues: 1, queueSize: 16 })
    answering("GET_INFLIGHT_FD", area)
    expect(await brokenBy(await connect())).toBe("protocol")
    backend?.close()
    rmSync(socketPath)
    answering("GET_INFLIGHT_FD", area, new Array<number>(8).fill(memory.fd))
    const device = await connect()
    const driver = await MockDriver.attach(device, overExternal)
    await setTimeout(20)
    expect(await driver.port.needsReset()).toBe(false)
    await driver[Symbol.asyncDispose]()
    device.close()
    backend?.close()
    backend = undefined
    memory.close()
    expect(await settledFds()).toBe(before)
  })

  test("H2: fds with an answer that has none are closed", async () => {
    using memory = Mapping.create({ name: "x", size: 4096 })
    const before = await settledFds()
    answering("GET_QUEUE_NUM", u64(1n), [memory.fd, memory.fd])
    ;(await connect()).close()
    backend?.close()
    backend = undefined
    expect(await settledFds()).toBe(before)
  })
})

describe("H7: a back end that does not give its rings back", () => {
  test.each(FAULTS)(
    "GET_VRING_BASE: $what: the driver's reset ends all the same",
    async ({ deed, codes }) => {
      const before = await settledFds()
      serve(request => (request === numberOf("GET_VRING_BASE") ? inTime(deed(request), codes) : "honest"))
      const device = await connect()
      const driver = await MockDriver.attach(device, overExternal)
      await driver.port.reset()
      expect(device.connected).toBe(false)
      await driver[Symbol.asyncDispose]()
      device.close()
      backend?.close()
      backend = undefined
      expect(await settledFds()).toBe(before)
    },
  )
})

test("nobody listens: the system's own error, and no socket is made", async () => {
  expect(await failure(connect())).toBe("SysError ENOENT")
  expect(existsSync(socketPath)).toBe(false)
})
