// What people's programs do on a sandbox's network: iperf3 both ways, and a thousand requests at once through a published
// port. Everything listens on loopback.
import { execFile } from "node:child_process"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, beforeAll, expect, test } from "vitest"
import { freePort } from "../fixtures/free-port.js"
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
/** Of a server each: one that has served a client stops to listen for a moment, and passt sends a SYN once. */
const IPERF_GUEST_PORTS = [5201, 5202] as const
let iperfPorts: number[]
let httpPort: number

beforeAll(async () => {
  iperfPorts = [await freePort(), await freePort()]
  httpPort = await freePort()
  sandbox = await Sandbox.create({
    image: `oci:${clientsImage()}`,
    paths: { stateDir: place.stateDir, imageDir: TEST_IMAGE_DIR },
    network: "passt",
    ports: [
      ...IPERF_GUEST_PORTS.map((guestPort, i) => ({ hostPort: iperfPorts[i] as number, guestPort })),
      { hostPort: httpPort, guestPort: 80 },
    ],
    mounts: [{ source: FIXTURES, target: "/clients", readOnly: true }],
    ...underTest,
  })
  for (const port of IPERF_GUEST_PORTS) {
    const hex = port.toString(16).toUpperCase()
    // It becomes a daemon first, and listens then.
    const listens = `until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':${hex} [0-9A-F:]* 0A '; do sleep 0.05; done`
    await sandbox.shell(`iperf3 --server --daemon --port ${port}; ${listens}`, { check: true })
  }
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
  ["to the guest", 0, []],
  ["from the guest", 1, ["--reverse"]],
])("iperf3 runs to its end, %s", { timeout: TIMEOUT_MS }, async (_, server, direction) => {
  const port = `${iperfPorts[server]}`
  const line = ["--client", "127.0.0.1", "--port", port, "--bytes", `${IPERF_BYTES}`, "--json"]
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
