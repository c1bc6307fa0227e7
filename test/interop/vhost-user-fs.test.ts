// QEMU 7.2 as the vhost-user front end, with Debian's own cloud kernel as the driver of our file system.
import { createHash, randomBytes } from "node:crypto"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { fileURLToPath } from "node:url"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { serveVhostUser } from "@ts-vmm/virtio-devices/vhost-user"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { makeInitramfs, stockKernel } from "../fixtures/stock-kernel.js"
import { startQemu } from "./qemu.js"

const SCRIPT = fileURLToPath(new URL("guest/fs.sh", import.meta.url))
const TIMEOUT_MS = 240_000

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

describe("our file system under QEMU 7.2 with Debian's stock kernel", () => {
  const folder = mkdtempSync(`${tmpdir()}/ts-vmm-qemu-`)
  const fromHost = randomBytes(8 * 2 ** 20)
  const said = new Map<string, string>()

  beforeAll(async () => {
    for (const name of ["shared", "fixed"]) mkdirSync(`${folder}/${name}`)
    writeFileSync(`${folder}/shared/from-host`, fromHost)
    writeFileSync(`${folder}/fixed/file`, "unchanged")
    const faults: Error[] = []
    const socket = (name: string) => `${folder}/${name}.sock`
    const devices = {
      shared: new FsDevice(`${folder}/shared`, { tag: "shared" }),
      fixed: new FsDevice(`${folder}/fixed`, { tag: "fixed", readOnly: true }),
    }
    const servers = await Promise.all(
      Object.entries(devices).map(([name, device]) => serveVhostUser(device, { socketPath: socket(name) })),
    )
    for (const server of servers) server.on("deviceFailed", error => faults.push(error))
    const kernel = stockKernel()
    const script = readFileSync(SCRIPT, "utf8")
    const initramfs = makeInitramfs({
      folder,
      kernel,
      modules: ["virtio_pci", "virtiofs"],
      script,
    })
    const slots = [
      { socketPath: socket("shared"), device: "vhost-user-fs-pci,tag=shared" },
      { socketPath: socket("fixed"), device: "vhost-user-fs-pci,tag=fixed" },
    ]
    const machine = startQemu({ kernel, initramfs, slots, timeoutMs: TIMEOUT_MS })
    try {
      for (const line of (await machine.ended).split(/\r?\n/)) {
        const match = /^([a-z -]+): (.*)$/.exec(line)
        if (match) said.set(match[1] as string, match[2] as string)
      }
      expect(faults).toEqual([])
    } finally {
      machine.child.kill("SIGKILL")
      for (const server of servers) await server.close()
      for (const device of Object.values(devices)) device.close()
    }
  }, TIMEOUT_MS + 30_000)
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  test("fs: bytes are equal both ways, also after a second mount", () => {
    expect(said.get("fs from-host")).toBe(sha256(fromHost))
    const fromGuest = sha256(readFileSync(`${folder}/shared/from-guest`))
    expect(said.get("fs from-guest")).toBe(fromGuest)
    expect(said.get("fs again")).toBe(fromGuest)
  })

  test("fs: names, links and renames are the same on both sides", () => {
    expect(said.get("fs names")).toBe("300")
    expect(said.get("fs links")).toBe("2 moved 1")
    expect(readdirSync(`${folder}/shared/folder`)).toHaveLength(301)
    expect(statSync(`${folder}/shared/folder/link`).nlink).toBe(2)
  })

  test("F13: fs: a read-only folder stays as it is", () => {
    expect(said.get("fs read-only")).toBe("unchanged")
    expect(readFileSync(`${folder}/fixed/file`, "utf8")).toBe("unchanged")
  })
})
