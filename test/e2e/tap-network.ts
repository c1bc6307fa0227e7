import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { HYPERVISOR } from "./under-test.js"

/** Where the server of a {@link TapNetwork} answers. */
export const PORT = 8080
/** What it sends, or takes, at once. */
export const BIG = 32 * 2 ** 20
export const BIG_PATTERN = "0123456789abcdef"

/** Answers with who asked, or many bytes; and as many bytes on a plain connection with their digest. On every address. */
const SERVER = `
const { createHash } = require("node:crypto")
const big = Buffer.alloc(${BIG}, "${BIG_PATTERN}")
require("node:http").createServer((request, response) => {
  response.end(request.url === "/big" ? big : "hello " + request.socket.remoteAddress + "\\n")
}).listen(${PORT}, "::")
require("node:net").createServer(socket => {
  const hash = createHash("sha256")
  let left = ${BIG}
  socket.on("error", () => undefined).on("data", chunk => {
    hash.update(chunk)
    left -= chunk.length
    if (left === 0) socket.end(hash.digest("hex"))
  })
}).listen(${PORT + 1}, "::", () => console.log("ready"))
`

/** A command of the guest: what the server at `host`, an address as in a URL, says of who asks. */
export const ask = (host: string) => `wget -q -O - http://${host}:${PORT}/`

/** Why this machine can have no {@link TapNetwork}. */
export function noTapNetwork(): string | undefined {
  if (process.getuid?.() !== 0) return "making interfaces needs root"
  if (!existsSync("/dev/net/tun")) return "there is no /dev/net/tun"
  return existsSync("/usr/sbin/ip") || existsSync("/sbin/ip") ? undefined : "ip is not installed"
}

/** Why the host's kernel can serve no tap device of a guest here. */
export function noVhost(): string | undefined {
  if (HYPERVISOR !== "kvm") return "vhost needs the kvm hypervisor"
  return existsSync("/dev/vhost-net") ? undefined : "there is no /dev/vhost-net"
}

const ip = (...args: string[]) => execFileSync("ip", args, { stdio: "pipe" })

/**
 * A network namespace of a test's own, with the tap device `tap0` (10.9.0.1, fd09::1), a way out of it (10.8.0.1,
 * 2001:db8:8::1), and a server that answers on all of these.
 */
export class TapNetwork {
  readonly #namespace = `tsvmm-e2e-${process.pid}`
  readonly #server: ChildProcessWithoutNullStreams

  private constructor() {
    ip("netns", "add", this.#namespace)
    for (const line of [
      "link set lo up",
      "tuntap add tap0 mode tap",
      "addr add 10.9.0.1/24 dev tap0",
      "addr add fd09::1/64 dev tap0 nodad",
      "link set tap0 up",
      // The way out of this namespace, as passt sees it.
      "link add out0 type veth peer name out1",
      "addr add 10.8.0.1/24 dev out0",
      "addr add 2001:db8:8::1/64 dev out0 nodad",
      "link set out0 up",
      "link set out1 up",
      "route add default via 10.8.0.2 dev out0",
      "-6 route add default via 2001:db8:8::2 dev out0",
    ])
      this.ip(line)
    this.#server = this.spawn(process.execPath, ["-e", SERVER])
  }

  static async open(): Promise<TapNetwork> {
    const network = new TapNetwork()
    await new Promise(resolve => network.#server.stdout.once("data", resolve))
    return network
  }

  /** `ip` in the namespace, with the words of `line`. */
  ip(line: string): void {
    ip("-n", this.#namespace, ...line.split(" "))
  }

  /** Starts a program in the namespace. */
  spawn(
    program: string,
    args: readonly string[],
    env: Readonly<Record<string, string>> = {},
  ): ChildProcessWithoutNullStreams {
    return spawn("ip", ["netns", "exec", this.#namespace, program, ...args], {
      env: { ...process.env, ...env },
      stdio: "pipe",
    })
  }

  close(): void {
    this.#server.kill("SIGKILL")
    ip("netns", "del", this.#namespace)
  }
}
