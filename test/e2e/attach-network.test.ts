// Networks that come to a running sandbox and go, in a network namespace that the test makes: the sandbox's process is in
// there.
import { fileURLToPath } from "node:url"
import type { SandboxOptions } from "@ts-vmm/runtime"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { collect, Workplace } from "./cli.js"
import { ask, BIG, noTapNetwork, noVhost, PORT, TapNetwork } from "./tap-network.js"
import { HYPERVISOR, underTest } from "./under-test.js"

const OWNER = fileURLToPath(new URL("attach-network.mjs", import.meta.url))
const skipped = noTapNetwork()
let network: TapNetwork
let place: Workplace

beforeAll(async () => {
  if (skipped) return
  place = new Workplace()
  network = await TapNetwork.open()
  network.ip("tuntap add tap1 mode tap")
  network.ip("addr add 10.7.0.1/24 dev tap1")
  network.ip("link set tap1 up")
})

afterAll(() => {
  if (skipped) return
  network.close()
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

type Step = readonly ["attach", object] | readonly ["grow", number] | readonly ["detach" | "shell", string]

/** Does `steps` with one sandbox; what each gave, or its error's code. */
async function inSandbox(steps: readonly Step[], more: Partial<SandboxOptions> = {}): Promise<unknown[]> {
  const options = {
    ...{ image: `oci:${busyboxImage()}`, ...more, ...underTest },
    paths: { stateDir: place.stateDir, imageDir: place.env["TS_VMM_IMAGE_DIR"] },
  }
  const owner = network.spawn(process.execPath, [OWNER, JSON.stringify({ options, steps })])
  owner.stdin.end()
  const { stdout, stderr } = await collect(owner)
  expect(stderr).toBe("")
  return JSON.parse(stdout.toString()) as unknown[]
}

const NAMES = ["shell", "ls /sys/class/net"] as const
const FIRST = { network: "tap:tap0", addresses: ["10.9.0.2/24", "fd09::2/64"], nameServers: ["10.9.0.1"] }
const SECOND = { network: "tap:tap1", addresses: ["10.7.0.2/24"], mtu: 1400 }

describe.skipIf(skipped !== undefined)(`networks${skipped ? ` (skipped: ${skipped})` : ""}`, () => {
  test.runIf(HYPERVISOR === "uml")("on User Mode Linux are refused, and nothing is left", async () => {
    expect(await inSandbox([["attach", FIRST], NAMES])).toEqual(["hypervisor-unavailable", "lo\n"])
  })

  test.runIf(HYPERVISOR === "kvm")("come and go, and are the guest's while they are there", async () => {
    const mtu = ["shell", "cat /sys/class/net/eth1/mtu"] as const
    expect(
      await inSandbox([
        NAMES,
        ["attach", FIRST],
        ["shell", ask("10.9.0.1")],
        ["shell", ask("[fd09::1]")],
        ["attach", SECOND],
        mtu,
        ["shell", ask("10.7.0.1")],
        ["detach", "eth0"],
        NAMES,
        ["shell", ask("10.7.0.1")],
        ["attach", { ...FIRST, macAddress: "02:00:00:00:00:42" }],
        ["shell", "cat /sys/class/net/eth0/address"],
        ["shell", ask("10.9.0.1")],
      ]),
    ).toEqual([
      "lo\n",
      { device: "eth0", addresses: FIRST.addresses, nameServers: ["10.9.0.1"] },
      "hello ::ffff:10.9.0.2\n",
      "hello fd09::2\n",
      { device: "eth1", addresses: SECOND.addresses, nameServers: [] },
      "1400\n",
      "hello ::ffff:10.7.0.2\n",
      "done",
      "eth1\nlo\n",
      "hello ::ffff:10.7.0.2\n",
      { device: "eth0", addresses: FIRST.addresses, nameServers: ["10.9.0.1"] },
      "02:00:00:00:00:42\n",
      "hello ::ffff:10.9.0.2\n",
    ])
  })

  test("that the host's kernel serves come and go; memory that came later is theirs too", async ({
    skip,
  }) => {
    const missing = noVhost()
    if (missing) skip(missing)
    const vhost = { ...FIRST, vhost: true }
    expect(
      await inSandbox(
        [
          ["attach", vhost],
          // The guest's kernel takes buffers from what came last.
          ["grow", 384],
          ["shell", `${ask("10.9.0.1")}; ${ask("[fd09::1]")}`],
          ["shell", `wget -q -O - http://10.9.0.1:${PORT}/big | wc -c`],
          ["detach", "eth0"],
          ["attach", vhost],
          ["shell", ask("10.9.0.1")],
          ["attach", { ...vhost, network: "tap:tap1", queuePairs: 2 }],
        ],
        { memoryMiB: 128, memoryMaxMiB: 384 },
      ),
    ).toEqual([
      expect.objectContaining({ device: "eth0" }),
      "done",
      "hello ::ffff:10.9.0.2\nhello fd09::2\n",
      `${BIG}\n`,
      "done",
      expect.objectContaining({ device: "eth0" }),
      "hello ::ffff:10.9.0.2\n",
      "invalid-argument",
    ])
  })

  test.runIf(HYPERVISOR === "kvm")(
    "through passt; what cannot be had is refused, and nothing is left",
    async () => {
      expect(
        await inSandbox([
          ["attach", { network: "none" }],
          ["attach", { network: "tap:tap77" }],
          ["attach", { network: "passt", addresses: ["10.9.0.2/24"] }],
          ["detach", "eth0"],
          NAMES,
          ["attach", { network: "passt" }],
          ["shell", ask("10.8.0.1")],
          ["attach", { network: "passt" }],
          ["detach", "eth0"],
          NAMES,
        ]),
      ).toEqual([
        "invalid-argument",
        "invalid-argument",
        "invalid-argument",
        "not-found",
        "lo\n",
        expect.objectContaining({ device: "eth0", nameServers: ["10.0.2.3"] }),
        "hello ::ffff:10.8.0.1\n",
        "invalid-argument",
        "done",
        "lo\n",
      ])
    },
  )
})
