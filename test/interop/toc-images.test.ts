// Images whose layers carry tables of contents, written by Debian's skopeo and buildah, in Debian's docker-registry: they
// begin at their first start, and in the end are what they are when they are pulled.
import { execFile } from "node:child_process"
import { randomBytes } from "node:crypto"
import { linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { ImageStore, type LazyImage } from "@ts-vmm/oci-image"
import { RegistryClient } from "@ts-vmm/oci-image/registry"
import { afterAll, beforeAll, expect, test } from "vitest"
import { layeredImage } from "../fixtures/images.js"
import { DockerRegistry } from "./docker-registry.js"
import { differences, seenOnDisk } from "./images/seen-files.js"

const exec = promisify(execFile)
const folder = mkdtempSync(join(tmpdir(), "toc-images-"))
let registry: DockerRegistry

beforeAll(async () => {
  registry = await DockerRegistry.start({})
})
afterAll(async () => {
  await registry?.[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

async function bySkopeo(image: string, name: string): Promise<void> {
  const format = ["--dest-compress", "--dest-compress-format", "zstd:chunked"]
  const args = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", ...format]
  await exec("skopeo", [...args, `oci:${image}`, `docker://${registry.host}/${name}`])
}

/** Builds an image of a folder: files of several chunks, one with a hole, a link, and a program of another owner. */
async function byBuildah(context: string, name: string): Promise<void> {
  const storage = [
    "--storage-driver",
    "vfs",
    "--root",
    join(folder, "root"),
    "--runroot",
    join(folder, "run"),
  ]
  await exec("buildah", [
    ...storage,
    "build",
    "-q",
    "--isolation",
    "chroot",
    "-t",
    `localhost/${name}`,
    context,
  ])
  const format = ["--compression-format", "zstd:chunked", "--tls-verify=false"]
  const target = `docker://${registry.host}/${name}`
  await exec("buildah", [...storage, "push", "-q", ...format, `localhost/${name}`, target])
}

function makeContext(): string {
  const context = join(folder, "context")
  mkdirSync(join(context, "root/usr/bin"), { recursive: true })
  writeFileSync(join(context, "Containerfile"), "FROM scratch\nCOPY --chown=7:8 root /\n")
  writeFileSync(join(context, "root/usr/bin/noise"), randomBytes(3_000_000), { mode: 0o755 })
  writeFileSync(join(context, "root/holes"), Buffer.concat([Buffer.alloc(3_000_001), Buffer.from("end")]))
  writeFileSync(join(context, "root/empty"), "")
  for (let i = 0; i < 20; i++) writeFileSync(join(context, `root/${i}`), `file ${i}\n`.repeat(i))
  symlinkSync("usr/bin", join(context, "root/bin"))
  linkSync(join(context, "root/holes"), join(context, "root/usr/again"))
  return context
}

/** A lazy image's disk once all is there that is on it. */
async function prepared(image: LazyImage): Promise<ReturnType<LazyImage["disk"]>> {
  const disk = image.disk()
  for (const { size, prepare } of disk.parts) await prepare?.(0, size)
  return disk
}

test.each([
  ["three layers by skopeo", "layered", layeredImage, bySkopeo],
  ["what a folder holds by buildah", "folder", makeContext, byBuildah],
])("%s", async (_, name, image, push) => {
  await push(image(), `${name}:1`)
  await using client = new RegistryClient({ hosts: new Map([[registry.host, { plainHttp: true }]]) })
  const store = await ImageStore.open(join(folder, `store-${name}`))
  const source = client.source(`${registry.host}/${name}:1`)
  const reasons: unknown[] = []
  await using lazy = await store.openLazy(source, { onLayer: ({ reason }) => reasons.push(reason) })
  if (!lazy) throw new Error(`not begun with: ${reasons.join("; ")}`)
  expect(new Set(lazy.bases.values())).toEqual(new Set(["zstd:chunked"]))
  const seen = seenOnDisk(await prepared(lazy))
  await lazy.fill()
  const loaded = await store.load(source)
  expect(seen.size).toBeGreaterThan(10)
  expect(differences(seen, seenOnDisk(loaded.disk()))).toEqual([])
})
