// QEMU 7.2 as the vhost-user front end, with Debian's own cloud kernel as the driver of our devices. One boot shows
// all of them. QEMU 7.2 has no vhost-user device for a console and no generic one (`-device help` lists blk, fs, gpio,
// gpu, i2c, input, rng, scsi, vsock), so the console is shown under User Mode Linux only.
import { execFileSync } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { Readable } from "node:stream"
import { finished } from "node:stream/promises"
import { fileURLToPath } from "node:url"
import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { RngDevice } from "@ts-vmm/virtio-devices/rng"
import { serveVhostUser, type VhostUserServer } from "@ts-vmm/virtio-devices/vhost-user"
import { VsockDevice } from "@ts-vmm/vsock"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { makeInitramfs, stockKernel } from "../fixtures/stock-kernel.js"
import { startQemu } from "./qemu.js"

const GUEST = fileURLToPath(new URL("guest", import.meta.url))
const MODULES = ["virtio_pci", "virtio_blk", "virtio_rng", "vmw_vsock_virtio_transport"]
const MIB = 1024 * 1024
const TIMEOUT_MS = 240_000
const VSOCK_BYTES = 64 * MIB
const ECHO_BYTES = 4 * MIB

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

/** What was made before the boot and seen after it. */
interface Tour {
  readonly fromHost: Buffer
  readonly second: Buffer
  readonly toGuest: Buffer
  readonly said: Map<string, string>
  readonly console: string
  readonly vsockReceived: string
  readonly echoed: { sent: string; received: string }
}

function makeDisks(folder: string, fromHost: Buffer, second: Buffer): void {
  mkdirSync(`${folder}/content`)
  writeFileSync(`${folder}/content/from-host`, fromHost)
  execFileSync("mke2fs", ["-q", "-t", "ext4", "-d", `${folder}/content`, `${folder}/first`, "64M"])
  writeFileSync(`${folder}/second`, second)
  writeFileSync(`${folder}/third`, Buffer.alloc(32 * MIB))
}

/** Serves all devices; `onFault` hears what should never happen. */
async function serveDevices(
  folder: string,
  vsock: VsockDevice,
  onFault: (error: Error) => void,
): Promise<VhostUserServer[]> {
  const serve = async (name: string, device: BlockDevice | RngDevice | VsockDevice) => {
    const server = await serveVhostUser(device, { socketPath: `${folder}/${name}.sock` })
    const tell = (error: Error | undefined) => error && onFault(new Error(`device ${name}`, { cause: error }))
    return server.on("disconnected", tell).on("deviceFailed", tell)
  }
  return [
    await serve(
      "first",
      new BlockDevice(openFileBackend(`${folder}/first`), { serial: "ts-vmm-first", queues: 4 }),
    ),
    await serve("second", new BlockDevice(openFileBackend(`${folder}/second`, { readOnly: true }))),
    await serve("third", new BlockDevice(openFileBackend(`${folder}/third`))),
    await serve("rng", new RngDevice({ fill: bytes => bytes.fill(0o245) })),
    await serve("vsock", vsock),
  ]
}

/** Host ports: 1024 answers with the digest of what came, 1025 sends and ends. */
function listen(vsock: VsockDevice, toGuest: Buffer): void {
  vsock.listen(1024, stream => {
    const hash = createHash("sha256")
    stream.on("data", (chunk: Buffer) => hash.update(chunk))
    stream.on("end", () => stream.end(hash.digest("hex")))
  })
  vsock.listen(1025, stream => {
    Readable.from([toGuest]).pipe(stream)
    stream.resume()
  })
}

/** A connection from the host: everything comes back from the guest. */
async function echo(vsock: VsockDevice): Promise<{ sent: string; received: string }> {
  const stream = await vsock.connect(5000, { timeoutMs: 30_000 })
  const bytes = randomBytes(ECHO_BYTES)
  const hash = createHash("sha256")
  let left = bytes.length
  const received = new Promise<string>((resolve, reject) => {
    stream.on("error", reject)
    stream.on("data", (chunk: Buffer) => {
      hash.update(chunk)
      left -= chunk.length
      if (left === 0) resolve(hash.digest("hex"))
    })
  })
  stream.write(bytes)
  const digest = await received
  stream.end()
  await finished(stream).catch(() => undefined)
  return { sent: sha256(bytes), received: digest }
}

/** Lines "name: value" of the console. */
function readSaid(text: string): Map<string, string> {
  const lines = text.split(/\r?\n/).map(line => /^([a-z -]+): (.*)$/.exec(line))
  return new Map(lines.filter(match => match !== null).map(match => [match[1] ?? "", match[2] ?? ""]))
}

async function takeTour(folder: string): Promise<Tour> {
  const fromHost = randomBytes(8 * MIB)
  const second = randomBytes(4 * MIB)
  const toGuest = randomBytes(VSOCK_BYTES)
  makeDisks(folder, fromHost, second)
  const pipe = `${folder}/vsock_pipe`
  execFileSync("gcc", ["-O2", "-static", "-o", pipe, `${GUEST}/vsock_pipe.c`])
  const kernel = stockKernel()
  const script = readFileSync(`${GUEST}/tour.sh`, "utf8")
  const initramfs = makeInitramfs({
    folder,
    kernel,
    modules: MODULES,
    script,
    programs: { vsock_pipe: pipe },
  })
  using vsock = new VsockDevice({ guestCid: 3 })
  listen(vsock, toGuest)
  let onFault: (error: Error) => void = () => undefined
  const fault = new Promise<never>((_, reject) => {
    onFault = reject
  })
  fault.catch(() => undefined) // it may come when nobody waits any more
  const servers = await serveDevices(folder, vsock, onFault)
  const slot = (name: string, device: string) => ({ socketPath: `${folder}/${name}.sock`, device })
  const slots = [
    slot("first", "vhost-user-blk-pci,num-queues=4"),
    slot("second", "vhost-user-blk-pci,num-queues=1"),
    slot("third", "vhost-user-blk-pci,num-queues=1"),
    slot("rng", "vhost-user-rng-pci"),
    slot("vsock", "vhost-user-vsock-pci"),
  ]
  const machine = startQemu({ kernel, initramfs, slots, timeoutMs: TIMEOUT_MS })
  try {
    await Promise.race([machine.waitFor("vsock ready"), fault])
    const echoed = await Promise.race([echo(vsock), fault])
    const console = await Promise.race([machine.ended, fault])
    const said = readSaid(console)
    return {
      fromHost,
      second,
      toGuest,
      said,
      console,
      vsockReceived: said.get("vsock to host reply") ?? "",
      echoed,
    }
  } finally {
    machine.child.kill("SIGKILL")
    for (const server of servers) await server.close()
  }
}

describe("our devices under QEMU 7.2 with Debian's stock kernel", () => {
  const folder = mkdtempSync(`${tmpdir()}/ts-vmm-qemu-`)
  let tour: Tour

  beforeAll(async () => {
    tour = await takeTour(folder)
  }, TIMEOUT_MS + 30_000)

  afterAll(() => {
    rmSync(folder, { recursive: true, force: true })
  })

  const said = (name: string): string | undefined => tour.said.get(name)

  test("block: the guest sees the serial number and uses as many of the four queues as it has CPUs", () => {
    expect(said("block serial")).toBe("ts-vmm-first")
    expect(said("block queues")).toBe("2")
  })

  test("block: the guest mounts what the host made and reads the same bytes", () => {
    expect(said("block from-host")).toBe(sha256(tour.fromHost))
  })

  test("block: the host finds what the guest wrote, in a file system without a fault", () => {
    execFileSync("e2fsck", ["-f", "-n", `${folder}/first`], { stdio: "pipe" })
    execFileSync("debugfs", ["-R", `dump from-guest ${folder}/from-guest`, `${folder}/first`], {
      stdio: "pipe",
    })
    expect(sha256(readFileSync(`${folder}/from-guest`))).toBe(said("block from-guest"))
  })

  test("block: after the driver let go of the device and took it again the bytes are the same", () => {
    expect(said("block again")).toBe(said("block from-guest"))
  })

  test("block: a read-only disk is read-only to the guest and reads the same", () => {
    expect(said("block second read-only")).toBe("1")
    expect(said("block second")).toBe(sha256(tour.second))
    expect(sha256(readFileSync(`${folder}/second`))).toBe(sha256(tour.second))
  })

  test("block: a file system that the guest made itself holds its file", () => {
    expect(said("block own file system")).toBe("same")
  })

  test("block: a discarded disk reads as zeroes", () => {
    expect(said("block discard")).toBe("0")
  })

  test("entropy: the kernel's source is ours and every byte comes from it", () => {
    expect(said("entropy source")).toBe("virtio_rng")
    expect(said("entropy bytes")).toBe("65536")
    expect(said("entropy foreign bytes")).toBe("0")
  })

  test("vsock: 64 MiB from the guest arrive whole", () => {
    expect(tour.vsockReceived).toBe(said("vsock to host"))
    expect(tour.vsockReceived).toHaveLength(64)
  })

  test("vsock: 64 MiB from the host arrive whole", () => {
    expect(said("vsock from host")).toBe(sha256(tour.toGuest))
  })

  test("vsock: a port that nobody listens on refuses", () => {
    expect(said("vsock refused")).toContain("Connection reset by peer")
  })

  test("vsock: a connection from the host is echoed by the guest", () => {
    expect(tour.echoed.received).toBe(tour.echoed.sent)
    expect(said("vsock echoed")).toBe(String(ECHO_BYTES))
  })
})
