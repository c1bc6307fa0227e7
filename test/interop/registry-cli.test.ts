// The command line against Debian's docker-registry, behind TLS of an authority of its own and a password.
import { execFile } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { afterAll, beforeAll, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { DockerRegistry, PASSWORD, USER } from "./docker-registry.js"

const CLI = fileURLToPath(new URL("../../examples/example-runtime/dist/main.js", import.meta.url))
const run = promisify(execFile)
const folder = mkdtempSync(join(tmpdir(), "registry-cli-"))
let registry: DockerRegistry
let name: string

beforeAll(async () => {
  registry = await DockerRegistry.start({ tls: true, auth: "basic" })
  name = `${registry.host}/team/busybox:1`
  const trust = registry.skopeoOptions("dest")
  const images = [`oci:${busyboxImage()}`, `docker://${name}`]
  await run("skopeo", ["copy", "--quiet", "--preserve-digests", ...trust, ...images])
})

afterAll(async () => {
  await registry?.[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

/** Runs the command line on folders of this test; @returns its standard output */
async function cli(...words: (string | { input: string })[]): Promise<string> {
  const args = words.filter(word => typeof word === "string")
  const env = {
    ...process.env,
    TS_VMM_IMAGE_DIR: join(folder, "images"),
    TS_VMM_STATE_DIR: join(folder, "state"),
    TS_VMM_REGISTRIES: registry.settings(),
    DOCKER_CONFIG: folder,
  }
  const running = run(process.execPath, [CLI, ...args], { encoding: "utf8", env })
  running.child.stdin?.end(words.find(word => typeof word === "object")?.input ?? "")
  return (await running).stdout
}

test("an image is pulled by who has logged in, and runs from the store", async () => {
  await expect(cli("pull", name)).rejects.toThrow("wants credentials")
  expect(await logIn(PASSWORD)).toBe("Login Succeeded\n")
  expect(await cli("pull", name)).toMatch(/^Digest: sha256:[0-9a-f]{64}\nStatus: Downloaded newer image for /)
  expect(await cli("pull", name)).toContain("Image is up to date for")
  expect(JSON.parse(await cli("pull", "--json", name))).toMatchObject({ name, new: false })
  expect(await cli("images")).toContain(name)
  expect(await cli("run", "--rm", "--hypervisor", "uml", name, "echo", "pulled")).toBe("pulled\n")
})

test("run pulls what the store does not have, and not what it has", async () => {
  await logIn(PASSWORD)
  await cli("rmi", name)
  const run = ["run", "--rm", "--hypervisor", "uml"]
  await expect(cli(...run, "--pull", "never", name, "true")).rejects.toThrow("no such image")
  expect(await cli(...run, name, "echo", "fetched")).toBe("fetched\n")
  await cli("logout", registry.host)
  expect(await cli(...run, name, "echo", "kept")).toBe("kept\n")
  await expect(cli(...run, "--pull", "always", name, "true")).rejects.toThrow("wants credentials")
})

test("an image is pushed under another name, and is the same there", async () => {
  await logIn(PASSWORD)
  const other = `${registry.host}/team/other:2`
  const digest = (await cli("pull", "-q", name)).trim()
  await cli("tag", name, other)
  expect(await cli("push", other)).toBe(`${other}: digest: ${digest}\n`)
  await cli("rmi", other)
  expect((await cli("pull", "-q", other)).trim()).toBe(digest)
})

test("wrong credentials are not kept; logging out forgets", async () => {
  await cli("logout", registry.host)
  await expect(logIn("wrong")).rejects.toThrow("HTTP 401 to a log-in")
  expect(await cli("logout", registry.host)).toBe(`Not logged in to ${registry.host}\n`)
  await logIn(PASSWORD)
  expect(await cli("logout", registry.host)).toBe(`Removing login credentials for ${registry.host}\n`)
  await expect(cli("pull", name)).rejects.toThrow("wants credentials")
})

/** The password goes through stdin, where nobody else can read it. */
function logIn(password: string): Promise<string> {
  return cli("login", "-u", USER, "--password-stdin", registry.host, { input: `${password}\n` })
}
