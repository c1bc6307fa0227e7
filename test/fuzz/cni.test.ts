import { ok, strictEqual } from "node:assert"
import { isIPv4, isIPv6 } from "node:net"
// What reads a plugin's answer is an inner part of its package: around it a program would be started for every case.
import { formatNetwork, parseNetwork } from "../../packages/cni/src/configuration.js"
import { CniError } from "../../packages/cni/src/errors.js"
import { type CniResult, parseResult } from "../../packages/cni/src/result.js"
import { fuzz } from "./harness.js"
import { mutate, type Random } from "./random.js"

type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

interface CniCase {
  readonly kind: "result" | "network"
  readonly text: string
}

const RESULT: Json = {
  cniVersion: "1.0.0",
  interfaces: [
    { name: "cni0", mac: "02:00:00:00:00:01" },
    { name: "eth0", mac: "02:00:00:00:00:02", sandbox: "/run/netns/x" },
  ],
  ips: [
    { version: "4", address: "10.1.0.5/24", gateway: "10.1.0.1", interface: 1 },
    { version: "6", address: "fd00::5/64", gateway: "fd00::1", interface: 1 },
  ],
  ip4: { ip: "10.1.0.5/24", gateway: "10.1.0.1", routes: [{ dst: "0.0.0.0/0", gw: "10.1.0.1" }] },
  routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0", gw: "fd00::1" }],
  dns: { nameservers: ["10.1.0.1"], domain: "lan", search: ["a.b"], options: ["ndots:5"] },
}
const NETWORK: Json = {
  cniVersion: "0.4.0",
  name: "lan",
  disableCheck: false,
  plugins: [
    { type: "bridge", ipam: { type: "host-local", ranges: [[{ subnet: "10.1.0.0/24" }]] } },
    { type: "flannel", delegate: { type: "bridge" }, capabilities: { portMappings: true } },
  ],
}
/** What may stand anywhere. */
const HOSTILE: readonly Json[] = [
  ...[
    null,
    true,
    -1,
    0.5,
    2 ** 53,
    1e308,
    "",
    ".",
    "..",
    "../../sh",
    "a/b",
    "a\0b",
    "a\nb",
    "x".repeat(300),
    [],
    {},
  ],
  ...[
    "10.1.0.5/33",
    "::/129",
    "fe80::1%eth0",
    "1.2.3",
    "::ffff:1.2.3.4/96",
    "0.1.0",
    "0.3.1",
    "2.0.0",
    "eth0:1",
  ],
  ...[
    { __proto__: null, type: "../sh" },
    [[[[[[]]]]]],
    JSON.parse('{"__proto__":{"type":"sh"},"constructor":1}'),
  ],
]

/** A copy with one value, somewhere, in place of another. */
function spoil(random: Random, value: Json): Json {
  if (typeof value !== "object" || value === null || random.oneIn(6)) return random.pick(HOSTILE)
  if (Array.isArray(value)) {
    if (random.oneIn(8)) return value.flatMap(one => new Array<Json>(random.pick([0, 2, 100])).fill(one))
    const at = random.below(Math.max(1, value.length))
    return value.map((one, index) => (index === at ? spoil(random, one) : one))
  }
  const entries = Object.entries(value)
  const at = random.below(Math.max(1, entries.length))
  if (random.oneIn(8)) return Object.fromEntries(entries.filter((_, index) => index !== at))
  return Object.fromEntries(
    entries.map(([key, one], index) => [key, index === at ? spoil(random, one) : one]),
  )
}

function randomCase(random: Random): CniCase {
  const kind = random.pick(["result", "network"] as const)
  let document: Json = kind === "result" ? RESULT : NETWORK
  for (let left = random.below(4); left > 0; left--) document = spoil(random, document)
  const text = JSON.stringify(document)
  return { kind, text: random.oneIn(4) ? Buffer.from(mutate(random, Buffer.from(text))).toString() : text }
}

function isAddress(text: string): boolean {
  return isIPv4(text) || (isIPv6(text) && !text.includes("%"))
}

function checkResult({ interfaces, ips, routes, dns }: CniResult): void {
  for (const { name, mac } of interfaces) {
    ok(/^[\w.-]{1,15}$/.test(name) && name !== "." && name !== "..", `interface ${name}`)
    ok(mac === undefined || /^[0-9a-f:]{17}$/i.test(mac), `MAC address ${mac}`)
  }
  for (const { address, prefixLength, gateway, interface: index } of ips) {
    ok(isAddress(address) && prefixLength > 0 && prefixLength <= (isIPv4(address) ? 32 : 128), address)
    ok(gateway === undefined || isIPv4(gateway) === isIPv4(address), `gateway ${gateway} of ${address}`)
    ok(index === undefined || interfaces[index] !== undefined, `interface ${index}`)
  }
  for (const { destination, gateway } of routes) {
    ok(isAddress(destination.address), destination.address)
    ok(gateway === undefined || isIPv4(gateway) === isIPv4(destination.address), `gateway ${gateway}`)
  }
  for (const server of dns.nameservers) ok(isAddress(server), server)
  for (const word of [dns.domain ?? "", ...dns.search, ...dns.options])
    ok(/^[\w.:-]*$/.test(word), `a word for resolv.conf: ${word}`)
}

function checkNetwork(text: string): void {
  const network = parseNetwork(text)
  for (const { type, configuration } of network.plugins) {
    const delegates = ["ipam", "delegate"].map(
      key => (configuration[key] as { type?: string } | null)?.type || "x",
    )
    for (const name of [type, ...delegates])
      ok(/^[\w.-]{1,64}$/.test(name) && !name.includes(".."), `plugin ${name}`)
  }
  // As a record holds it.
  const again = parseNetwork(JSON.stringify(formatNetwork(network)))
  strictEqual(JSON.stringify(formatNetwork(again)), JSON.stringify(formatNetwork(network)))
}

fuzz<CniCase>({
  name: "cni",
  share: 0.02,
  covers: ["packages/cni/src"],
  generate: randomCase,
  run({ kind, text }) {
    try {
      if (kind === "result") checkResult(parseResult(text, "bridge").result)
      else checkNetwork(text)
    } catch (error) {
      ok(error instanceof CniError, String(error))
      strictEqual(error.code, kind === "result" ? "result-invalid" : "config-invalid")
      ok(error.message.length < 500, "a long message")
    }
    strictEqual(({} as { type?: unknown }).type, undefined, "a prototype was changed")
  },
})
