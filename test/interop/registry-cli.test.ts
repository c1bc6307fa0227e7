// The command line against Debian's docker-registry, behind TLS of an authority of its own and a password.
import { execFile } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
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
async function cli(...args: string[]): Promise<string> {
  const env = {
    ...process.env,
    TS_VMM_IMAGE_DIR: join(folder, "images"),
    TS_VMM_STATE_DIR: join(folder, "state"),
    TS_VMM_REGISTRIES: registry.settings(),
    DOCKER_CONFIG: folder,
  }
  return (await run(process.execPath, [CLI, ...args], { encoding: "utf8", env })).stdout
}

test("an image is pulled, and runs from the store", async () => {
  const auth = Buffer.from(`${USER}:${PASSWORD}`).toString("base64")
  writeFileSync(join(folder, "config.json"), JSON.stringify({ auths: { [registry.host]: { auth } } }))
  expect(await cli("pull", name)).toMatch(/^Digest: sha256:[0-9a-f]{64}\nStatus: Downloaded newer image for /)
  expect(await cli("pull", name)).toContain("Image is up to date for")
  expect(JSON.parse(await cli("pull", "--json", name))).toMatchObject({ name, new: false })
  expect(await cli("images")).toContain(name)
  expect(await cli("run", "--rm", "--hypervisor", "uml", name, "echo", "pulled")).toBe("pulled\n")
})
