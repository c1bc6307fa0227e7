import { mkdtempSync, rmSync } from "node:fs"
import { constants, tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as delay } from "node:timers/promises"
import {
  AgentClient,
  type ContainerSpecOptions,
  containerSpec,
  GRPC_STATUS,
  guestArtifacts,
} from "@ts-vmm/guest"
import { ImageStore } from "@ts-vmm/oci-image"
import type { Machine } from "@ts-vmm/runtime"
import { BlockDevice, concatBackend } from "@ts-vmm/virtio-devices/block"
import { type Connection, VMADDR_PORT_ANY, VsockDevice, VsockStream } from "@ts-vmm/vsock"
import { afterAll, beforeAll, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR } from "./cli.js"
import { hypervisorUnderTest, PATIENCE_MS, POWERED_OFF, underTest } from "./under-test.js"

/** The agent in a real guest, spoken to from the packages alone, without the runtime's containers. */
const directory = mkdtempSync(join(tmpdir(), "tsv-agent-"))
const { SIGKILL } = constants.signals
const SOON = { timeout: PATIENCE_MS }
const GUEST_CID = 3
/** Longer than Linux waits for an answer unless it is told to: 2 s. */
const LATE_MS = 3000
const vsock = new VsockDevice({ guestCid: GUEST_CID })
let machine: Machine
let agent: AgentClient
let count = 0

beforeAll(async () => {
  const image = await (await ImageStore.open(TEST_IMAGE_DIR)).load(`oci:${busyboxImage()}`)
  const disk = concatBackend(image.disk().parts.map(({ path, size }) => ({ source: path, size })))
  const connected = lateConnection()
  machine = await hypervisorUnderTest().start({
    directory,
    initramfs: underTest.initramfs ?? guestArtifacts().initramfs,
    memoryMiB: 256,
    cpus: 1,
    devices: [new BlockDevice(disk), vsock],
    kernelArguments: [],
    onDeviceError: error => expect.unreachable(String(error)),
  })
  agent = new AgentClient(await connected)
  const storages = [
    { driver: "blk", source: "/dev/vda", fstype: "erofs", options: ["ro"], mountPoint: "/run/tsvmm/image" },
  ]
  await agent.createSandbox({ sandboxId: "s", hostname: "s", storages })
})

afterAll(async () => {
  await agent.destroySandbox()
  expect((await machine.exited).how).toBe(POWERED_OFF)
  rmSync(directory, { recursive: true })
})

/** The next connection to a port that nobody listens on, answered late; whoever gave up and tries again is refused. */
function lateConnection(): Promise<VsockStream> {
  return new Promise(resolve => {
    const accept = (connection: Connection) => {
      const stream = new VsockStream(connection, GUEST_CID)
      connection.accept()
      resolve(stream)
    }
    vsock.setFallback({
      incoming(connection) {
        vsock.setFallback(undefined)
        setTimeout(accept, LATE_MS, connection)
      },
    })
  })
}

interface Started {
  readonly id: string
  readonly exit: Promise<number>
  readonly stdout: Promise<string>
  /** What of it has come. */
  readonly received: { bytes: number }
}

/** Where a container's output is awaited. */
interface Output {
  readonly port: number
  readonly stream: Promise<VsockStream>
}

function promptOutput(): Output {
  const listener = vsock.listen(VMADDR_PORT_ANY)
  const stream = listener[Symbol.asyncIterator]()
    .next()
    .then(({ value }) => value as VsockStream)
  return { port: listener.port, stream }
}

async function start(
  args: string[],
  resources?: ContainerSpecOptions["resources"],
  output: Output = promptOutput(),
): Promise<Started> {
  const id = `c${++count}`
  const top = `/run/tsvmm/containers/${id}/top`
  const rootPath = `/run/tsvmm/containers/${id}/rootfs`
  const created = agent.createContainer({
    containerId: id,
    execId: id,
    stdoutPort: output.port,
    storages: [
      { driver: "tmpfs", source: "tmpfs", fstype: "tmpfs", mountPoint: top },
      {
        driver: "overlayfs",
        source: "overlay",
        fstype: "overlay",
        options: ["lowerdir=/run/tsvmm/image", `upperdir=${top}/upper`, `workdir=${top}/work`],
        mountPoint: rootPath,
      },
    ],
    OCI: containerSpec({ rootPath, args, ...(resources ? { resources } : {}) }),
  })
  const received = { bytes: 0 }
  const stdout = readAll(output.stream, received)
  await created
  await agent.startContainer({ containerId: id })
  const exit = agent.waitProcess({ containerId: id, execId: id }).then(end => end.exitCode)
  return { id, exit, stdout, received }
}

async function readAll(connected: Promise<VsockStream>, received: Started["received"]): Promise<string> {
  const stream = await connected
  let text = ""
  stream.on("error", () => undefined)
  for await (const chunk of stream) {
    received.bytes += chunk.length
    text += chunk
  }
  return text
}

async function output(args: string[], resources?: ContainerSpecOptions["resources"]): Promise<string> {
  const { exit, stdout } = await start(args, resources)
  expect(await exit).toBe(0)
  return stdout
}

test("says what it is, and that it serves", async () => {
  expect(await agent.check()).toBe(true)
  expect(await agent.getGuestDetails()).toMatchObject({ initDaemon: true })
})

test("output is whole when its connection is answered late", async () => {
  const late = { port: 77, stream: lateConnection() }
  const { exit, stdout } = await start(["echo", "late, and whole"], undefined, late)
  expect(await exit).toBe(0)
  expect(await stdout).toBe("late, and whole\n")
})

test("SetGuestDateTime sets the guest's clock", async () => {
  await agent.setGuestDateTime(new Date("2031-05-06T07:08:09Z"))
  expect(await output(["date", "-u", "+%Y-%m-%d %H"])).toBe("2031-05-06 07\n")
  await agent.setGuestDateTime(new Date())
})

test("ReseedRandomDev takes bytes", async () => {
  await agent.reseedRandomDev(new Uint8Array(64).fill(7))
})

test("A3: a method it does not have is UNIMPLEMENTED, one nobody has too", async () => {
  for (const method of ["CopyFile", "NoSuchMethod"]) {
    const call = agent.rpc.call("grpc.AgentService", method, new Uint8Array())
    await expect(call).rejects.toMatchObject({ status: GRPC_STATUS.UNIMPLEMENTED })
  }
})

test("X3: a memory limit ends the container that passes it, with an event", async () => {
  const oom = agent.getOomEvent()
  const hog = await start(["sh", "-c", "tail /dev/zero"], { Memory: { Limit: 24n << 20n } })
  expect(await oom).toBe(hog.id)
  expect(await hog.exit).toBe(137)
})

test("X4: a limit on processes holds", async () => {
  const script = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done 2>/dev/null; echo not reached"
  const { exit } = await start(["sh", "-c", script], { Pids: { Limit: 4n } })
  expect(await exit).not.toBe(0)
})

test("StatsContainer counts memory and processes; Pause stops and Resume goes on", async () => {
  const { id, exit, received } = await start(["sh", "-c", "while :; do echo; sleep 0.05; done"])
  const stats = await agent.statsContainer({ containerId: id })
  expect(stats.memory.usage).toBeGreaterThan(0)
  expect(stats.pids.current).toBeGreaterThan(0)
  await expect.poll(() => received.bytes, SOON).toBeGreaterThan(0)
  await agent.pauseContainer({ containerId: id })
  const inOneSecond = async () => {
    const before = received.bytes
    await delay(1000)
    return received.bytes - before
  }
  // What was on its way still comes.
  await expect.poll(inOneSecond, SOON).toBe(0)
  const { bytes } = received
  await agent.resumeContainer({ containerId: id })
  await expect.poll(() => received.bytes, SOON).toBeGreaterThan(bytes)
  await agent.signalProcess({ containerId: id, execId: id, signal: SIGKILL })
  expect(await exit).toBe(128 + SIGKILL)
})
