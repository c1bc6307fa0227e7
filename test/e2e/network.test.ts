// A sandbox on the network, through passt: published ports, the host's servers, and what it must not reach. Everything
// listens on loopback or on addresses of this machine.

import { mkdtempSync, rmSync } from "node:fs"
import { createServer, get, type Server } from "node:http"
import { type AddressInfo, createServer as createTcpServer } from "node:net"
import { networkInterfaces, tmpdir } from "node:os"
import { join } from "node:path"
import { type RuntimePaths, Sandbox } from "@ts-vmm/runtime"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { freePort } from "../fixtures/free-port.js"
import { busyboxImage } from "../fixtures/images.js"
import { LONG_TEST_MS, underTest } from "./under-test.js"

const image = `oci:${busyboxImage()}`
let root: string
let paths: RuntimePaths
let sandbox: Sandbox
let published: number
let server: Server

const fetchText = (port: number, path: string) =>
  new Promise<string>((resolve, reject) => {
    get({ host: "127.0.0.1", port, path, agent: false, timeout: 20_000 }, response => {
      let text = ""
      response.on("data", chunk => {
        text += chunk
      })
      response.on("end", () => resolve(text))
      response.on("error", reject)
    }).on("error", reject)
  })

/** An address of this machine that is not loopback: what a guest may reach like any other machine. */
const outside = () =>
  Object.values(networkInterfaces())
    .flatMap(list => list ?? [])
    .find(one => one.family === "IPv4" && !one.internal)?.address

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "network-"))
  paths = { stateDir: join(root, "state"), imageDir: join(root, "images") }
  published = await freePort()
  server = createServer((_, response) => response.end("from the host"))
  await new Promise<void>(resolve => server.listen(0, "0.0.0.0", resolve))
  sandbox = await Sandbox.create({
    image,
    paths,
    network: "passt",
    ports: [{ hostPort: published, guestPort: 80 }],
    ...underTest,
  })
  await sandbox.shell("mkdir /www && echo from the guest > /www/index.html && httpd -p 80 -h /www")
})
afterAll(async () => {
  await sandbox?.destroy()
  server?.close()
  rmSync(root, { recursive: true })
})

test("the guest has its address, its route and its name server", async () => {
  const { stdout } = await sandbox.shell(
    "ip -o -4 addr show eth0; ip route; cat /etc/resolv.conf; cat /sys/class/net/eth0/mtu",
  )
  expect(stdout).toContain("10.0.2.15/24")
  expect(stdout).toContain("default via 10.0.2.2 dev eth0")
  expect(stdout).toContain("nameserver 10.0.2.3")
  expect(stdout).toMatch(/^65520$/m)
})

describe("a published port", () => {
  test("leads to the program in the guest", async () => {
    expect(await fetchText(published, "/")).toBe("from the guest\n")
  })

  // As many as fit the backlog of busybox's httpd (9): passt sends a SYN once, and what the guest drops is reset.
  test("carries 1,000 requests, 8 at a time, with 0 errors", { timeout: LONG_TEST_MS }, async () => {
    const one = async (count: number) => {
      for (let i = 0; i < count; i++) expect(await fetchText(published, "/")).toBe("from the guest\n")
    }
    await Promise.all(Array.from({ length: 8 }, () => one(125)))
  })

  test("that is taken is refused with a line", async () => {
    const taken = createTcpServer()
    await new Promise<void>(resolve => taken.listen(0, "127.0.0.1", resolve))
    const { port } = taken.address() as AddressInfo
    const creating = Sandbox.create({
      image,
      paths,
      network: "passt",
      ports: [{ hostPort: port, guestPort: 80 }],
      ...underTest,
    })
    await expect(creating).rejects.toMatchObject({ code: "invalid-argument", message: /Failed to bind/ })
    taken.close()
  })
})

describe("the way out", () => {
  test.skipIf(outside() === undefined)("leads to a server, bytes equal both ways", async () => {
    const { port } = server.address() as AddressInfo
    const { stdout } = await sandbox.shell(`wget -q -O - http://${outside()}:${port}/`)
    expect(stdout).toBe("from the host")
  })

  test("N7: not to the host's loopback, and not to link-local addresses", async () => {
    const { port } = server.address() as AddressInfo
    for (const address of ["10.0.2.2", "169.254.169.254"]) {
      const { exitCode, stdout } = await sandbox.shell(`wget -q -T 3 -O - http://${address}:${port}/`)
      expect(exitCode).not.toBe(0)
      expect(stdout).toBe("")
    }
  })
})

test("without a network there is none, and no ports", async () => {
  await using other = await Sandbox.create({ image, paths, ...underTest })
  expect((await other.shell("ls /sys/class/net")).stdout).toBe("lo\n")
  const creating = Sandbox.create({ image, paths, ports: [{ hostPort: 1, guestPort: 1 }] })
  await expect(creating).rejects.toMatchObject({ code: "invalid-argument" })
})
