import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { ImageStore, type StoredImage } from "@ts-vmm/oci-image"
import { RegistryClient } from "@ts-vmm/oci-image/registry"
import { afterAll, beforeAll, expect, test } from "vitest"
import { busyboxImage, layeredImage } from "../fixtures/images.js"

/** Debian's docker-registry on loopback, over TLS with a CA of its own, with a password. */
const folder = mkdtempSync(join(tmpdir(), "registry-"))
const [USER, PASSWORD] = ["alice", "correct horse"]
const file = (name: string) => join(folder, name)
const CLI = fileURLToPath(new URL("../../examples/example-runtime/dist/main.js", import.meta.url))
let registry: ChildProcess
let host: string

/** The registry cannot choose a port itself. */
function freePort(): Promise<number> {
  return new Promise(resolve => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}

function configure(port: number): void {
  const htpasswd = execFileSync("htpasswd", ["-Bbn", USER, PASSWORD], { encoding: "utf8" })
  writeFileSync(file("htpasswd"), htpasswd)
  const request = [
    "req",
    "-x509",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
    "-days",
    "1",
  ]
  const name = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
  execFileSync("openssl", [...request, ...name, "-keyout", file("key.pem"), "-out", file("ca.crt")], {
    stdio: "ignore",
  })
  const config = {
    version: "0.1",
    log: { level: "error", accesslog: { disabled: true } },
    storage: { filesystem: { rootdirectory: file("data") } },
    http: { addr: `127.0.0.1:${port}`, tls: { certificate: file("ca.crt"), key: file("key.pem") } },
    auth: { htpasswd: { realm: "test", path: file("htpasswd") } },
  }
  writeFileSync(file("config.yml"), JSON.stringify(config)) // JSON is YAML
}

async function untilItAnswers(): Promise<void> {
  for (let tries = 0; tries < 200; tries++) {
    try {
      execFileSync("openssl", ["s_client", "-connect", host], {
        input: "",
        stdio: ["pipe", "ignore", "ignore"],
      })
      return
    } catch {
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }
  throw new Error("docker-registry does not answer")
}

beforeAll(async () => {
  const port = await freePort()
  host = `127.0.0.1:${port}`
  configure(port)
  registry = spawn("docker-registry", ["serve", file("config.yml")], { stdio: "ignore" })
  await untilItAnswers()
  const trust = ["--dest-cert-dir", folder, "--dest-creds", `${USER}:${PASSWORD}`]
  rmSync(file("key.pem")) // skopeo would take it for a client's key
  for (const [name, path] of Object.entries({ layered: layeredImage(), busybox: busyboxImage() })) {
    const images = [`oci:${path}`, `docker://${host}/team/${name}:1`]
    execFileSync("skopeo", ["copy", "--quiet", "--preserve-digests", ...trust, ...images])
  }
})

afterAll(async () => {
  const ended = new Promise(resolve => registry.once("close", resolve))
  registry.kill()
  await ended
  rmSync(folder, { recursive: true, force: true })
})

const client = (password = PASSWORD, options = {}) =>
  new RegistryClient({
    hosts: new Map([[host, { plainHttp: false, mirrors: [], ca: readFileSync(file("ca.crt"), "utf8") }]]),
    credentials: async () => ({ username: USER, password }),
    ...options,
  })

/** Of the disk's bytes. */
function diskHash(image: StoredImage): string {
  const hash = createHash("sha256")
  for (const { path } of image.disk().parts) hash.update(readFileSync(path))
  return hash.digest("hex")
}

test("what skopeo pushed is pulled with equal digests, by tag and by digest", async () => {
  await using access = client()
  const store = await ImageStore.open(file("store"))
  const local = await (await ImageStore.open(file("local"))).load(`oci:${layeredImage()}`)
  const pulled = await store.load(access.source(`${host}/team/layered:1`), { name: `${host}/team/layered:1` })
  expect([pulled.digest, pulled.configDigest]).toEqual([local.digest, local.configDigest])
  expect(diskHash(pulled)).toBe(diskHash(local))
  expect((await store.load(access.source(`${host}/team/layered@${local.digest}`))).digest).toBe(local.digest)
})

test("example-runtime pulls it, and runs it from the store", () => {
  const auth = Buffer.from(`${USER}:${PASSWORD}`).toString("base64")
  writeFileSync(file("config.json"), JSON.stringify({ auths: { [host]: { auth } } }))
  writeFileSync(file("registries.json"), JSON.stringify({ hosts: { [host]: { ca: "ca.crt" } } }))
  const home = { TS_VMM_IMAGE_DIR: file("images"), TS_VMM_STATE_DIR: file("state") }
  const env = { ...process.env, ...home, DOCKER_CONFIG: folder, TS_VMM_REGISTRIES: file("registries.json") }
  const cli = (...args: string[]) => execFileSync(process.execPath, [CLI, ...args], { encoding: "utf8", env })
  const name = `${host}/team/busybox:1`
  expect(cli("pull", name)).toMatch(/^Digest: sha256:[0-9a-f]{64}\nStatus: Downloaded newer image for /)
  expect(cli("pull", name)).toContain("Image is up to date for")
  expect(JSON.parse(cli("pull", "--json", name))).toMatchObject({ name, new: false })
  expect(cli("images")).toContain(name)
  expect(cli("run", "--rm", "--hypervisor", "uml", name, "echo", "pulled")).toBe("pulled\n")
})

test.each([
  ["registry-unauthorized", "1", "wrong", {}],
  ["registry-not-found", "2", PASSWORD, {}],
  ["registry-tls", "1", PASSWORD, { hosts: new Map() }],
])("says %s", async (code, tag, password, options) => {
  await using access = client(password, options)
  const store = await ImageStore.open(file("refused"))
  await expect(store.load(access.source(`${host}/team/layered:${tag}`))).rejects.toMatchObject({ code })
  expect(await store.list()).toEqual([])
})
