// What people's programs do on a sandbox's network: iperf3 both ways, and a thousand requests at once through a published
// port. Everything listens on loopback.
import { execFile } from "node:child_process"
import { type AddressInfo, createServer } from "node:net"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, beforeAll, expect, test } from "vitest"
import { clientsImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { underTest } from "./under-test.js"

const MIB = 2 ** 20
const IPERF_BYTES = Number(process.env["TS_VMM_CLIENTS_IPERF_MIB"] ?? 64) * MIB
/** What buffers of two kernels and passt hold. */
const IN_FLIGHT = 32 * MIB
const REQUESTS = 1000
/** The server answers with the path this many times. */
const REPEAT = 500
const TIMEOUT_MS = 600_000
const FIXTURES = fileURLToPath(new URL("../fixtures/clients", import.meta.url))
const run = promisify(execFile)

const place = new Workplace()
let sandbox: Sandbox
let iperfPort: number
let httpPort: number

const freePort = () =>
  new Promise<number>(resolve => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address() as AddressInfo
      probe.close(() => resolve(port))
    })
  })

beforeAll(async () => {
  iperfPort = await freePort()
  httpPort = await freePort()
  sandbox = await Sandbox.create({
    image: `oci:${clientsImage()}`,
    paths: { stateDir: place.stateDir, imageDir: TEST_IMAGE_DIR },
    network: "passt",
    ports: [
      { hostPort: iperfPort, guestPort: 5201 },
      { hostPort: httpPort, guestPort: 80 },
    ],
    mounts: [{ source: FIXTURES, target: "/clients", readOnly: true }],
    ...underTest,
  })
  await sandbox.shell("iperf3 --server --daemon", { check: true })
  const server = await sandbox.spawn("python3", ["/clients/http_server.py", "80"])
  server.stderr.resume()
  await new Promise<void>((resolve, reject) => {
    server.stdout.once("data", () => resolve())
    server.stdout.once("end", () => reject(new Error("the server ended")))
  })
}, TIMEOUT_MS)

afterAll(async () => {
  await sandbox?.destroy()
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

test.each([
  ["to the guest", []],
  ["from the guest", ["--reverse"]],
])("iperf3 runs to its end, %s", { timeout: TIMEOUT_MS }, async (_, direction) => {
  const line = ["--client", "127.0.0.1", "--port", `${iperfPort}`, "--bytes", `${IPERF_BYTES}`, "--json"]
  const { stdout } = await run("iperf3", [...line, ...direction], { maxBuffer: 16 * MIB })
  const { end } = JSON.parse(stdout)
  expect(end.sum_sent.bytes).toBeGreaterThanOrEqual(IPERF_BYTES)
  // The receiver stops counting when the sender is done; the rest is in buffers of the kernels between them.
  expect(end.sum_received.bytes).toBeGreaterThan(IPERF_BYTES - IN_FLIGHT)
})

// The client is a process of its own: passt sends a SYN once, and keeps 277 of them at most for a thread that is busy with
// something else, as the devices' thread would be with a thousand requests.
test("a published port carries 1,000 requests at once, each with its own answer", {
  timeout: TIMEOUT_MS,
}, async () => {
  const client = [join(FIXTURES, "http_client.mjs"), httpPort, REQUESTS, REPEAT].map(String)
  const { wrong, errors, most } = JSON.parse((await run(process.execPath, client)).stdout)
  expect({ wrong, errors }).toEqual({ wrong: 0, errors: [] })
  expect(most).toBeGreaterThan(REQUESTS / 2)
})
