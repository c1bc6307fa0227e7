import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from "node:child_process"
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { noTapNetwork } from "./tap-network.js"

/** Where Debian has the plugins. */
const PLUGINS = "/usr/lib/cni"
const PORT = 8080
/** Answers with who asked, on every address. */
const SERVER = `
require("node:http").createServer((request, response) => {
  response.end("hello " + request.socket.remoteAddress + "\\n")
}).listen(${PORT}, "::", () => console.log("ready"))
`

/** Why this machine can have no {@link CniHost}. */
export function noCniHost(): string | undefined {
  const missing = ["bridge", "host-local", "portmap"].find(name => !existsSync(join(PLUGINS, name)))
  if (missing) return `the CNI plugin ${missing} is not installed (containernetworking-plugins)`
  for (const tool of ["tc", "iptables"])
    if (!["/usr/sbin", "/sbin"].some(folder => existsSync(join(folder, tool))))
      return `${tool} is not installed`
  return noTapNetwork()
}

const run = (program: string, ...args: string[]) =>
  execFileSync(program, args, { stdio: "pipe", encoding: "utf8", timeout: 60_000 })

/**
 * What a CNI runtime finds on a host, in a network namespace of a test's own: a folder of configurations, a server on
 * port 8080, and the networks `lan` (bridge, host-local, portmap), `plain` (without portmap), and `broken`, whose last
 * plugin a test says the behaviour of.
 */
export class CniHost {
  readonly confDir: string
  readonly #root = mkdtempSync(join(tmpdir(), "cni-e2e-"))
  readonly #leases: string
  readonly #fakes: string
  readonly #namespace = `tsvmm-cni-${process.pid}`
  #server: ChildProcessWithoutNullStreams | undefined

  constructor() {
    this.confDir = join(this.#root, "conf")
    this.#leases = join(this.#root, "leases")
    this.#fakes = join(this.#root, "bin")
    for (const folder of [this.confDir, this.#leases, this.#fakes]) mkdirSync(folder)
    run("ip", "netns", "add", this.#namespace)
    this.ip("link", "set", "lo", "up")
    const portmap = { type: "portmap", capabilities: { portMappings: true } }
    this.#configure("lan", [this.#bridge(), portmap])
    this.#configure("plain", [this.#bridge()])
    this.#configure("broken", [this.#bridge(), { type: "broken" }])
  }

  /** `--cni-…` for the command line. */
  get options(): string[] {
    return ["--cni-conf-dir", this.confDir, "--cni-plugin-dir", this.#fakes, "--cni-plugin-dir", PLUGINS]
  }

  async serve(): Promise<void> {
    this.#server = this.spawn(process.execPath, ["-e", SERVER])
    await new Promise(resolve => this.#server?.stdout.once("data", resolve))
  }

  /** What the plugin `broken` does, as lines of sh. */
  breakWith(lines: string): void {
    const path = join(this.#fakes, "broken")
    writeFileSync(path, `#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n${lines}\n`)
    chmodSync(path, 0o755)
  }

  ip(...args: string[]): string {
    return run("ip", "-n", this.#namespace, ...args)
  }

  /** Without a mount namespace of its own, as `ip netns exec` would make one. */
  spawn(program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    return spawn("nsenter", [`--net=/run/netns/${this.#namespace}`, program, ...args], {
      env: { ...process.env, ...env },
      stdio: "pipe",
    })
  }

  /** With one. */
  spawnByIp(program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    return spawn("ip", ["netns", "exec", this.#namespace, program, ...args], {
      env: { ...process.env, ...env },
      stdio: "pipe",
    })
  }

  /** What a web server says to somebody of this host; empty when it does not. */
  get(address: string): string {
    const script = `busybox wget -q -Y off -O - http://${address}/`
    const words = ["netns", "exec", this.#namespace, ...script.split(" ")]
    try {
      return run("ip", ...words)
    } catch {
      return ""
    }
  }

  /** Throws when it does not answer. */
  ping(address: string): void {
    run("ip", "netns", "exec", this.#namespace, "busybox", "ping", "-q", "-c", "1", "-W", "30", address)
  }

  /** Addresses that host-local has given out. */
  leases(): string[] {
    return readdirSync(this.#leases, { recursive: true, encoding: "utf8" })
      .map(path => path.slice(path.indexOf("/") + 1))
      .filter(name => /^[0-9a-f]+[.:]/.test(name))
      .sort()
  }

  /** Interfaces of the bridge, and rules of portmap for a container. */
  left(): string[] {
    const ports = this.ip("-br", "link", "show", "type", "veth").split("\n").filter(Boolean)
    const rules = run("ip", "netns", "exec", this.#namespace, "iptables", "-t", "nat", "-S").split("\n")
    return [...ports, ...rules.filter(rule => rule.includes("tsvmm-"))]
  }

  close(): void {
    this.#server?.kill("SIGKILL")
    run("ip", "netns", "del", this.#namespace)
    rmSync(this.#root, { recursive: true })
  }

  #bridge(): object {
    return {
      ...{ type: "bridge", bridge: "cni0", isGateway: true, ipMasq: true, mtu: 1400 },
      ipam: {
        ...{ type: "host-local", dataDir: this.#leases },
        ranges: [[{ subnet: "10.77.0.0/24" }], [{ subnet: "fd77::/64" }]],
        routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }, { dst: "192.0.2.0/24", gw: "10.77.0.9" }],
      },
      dns: { nameservers: ["10.77.0.1"] },
    }
  }

  #configure(name: string, plugins: readonly object[]): void {
    writeFileSync(
      join(this.confDir, `${name}.conflist`),
      JSON.stringify({ cniVersion: "1.0.0", name, plugins }),
    )
  }
}
