// What layers of an image have in common, seen by the kernel that mounts it.
import { createHash, randomBytes } from "node:crypto"
import { createReadStream, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createGunzip } from "node:zlib"
import { ImageStore, packImage } from "@ts-vmm/oci-image"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { Workplace } from "./cli.js"
import { underTest } from "./under-test.js"

const CHUNK = 64 * 1024
const images = mkdtempSync(join(tmpdir(), "images-"))
const place = new Workplace(images)
const paths = { stateDir: place.stateDir, imageDir: images }

afterAll(() => {
  place.remove()
  rmSync(images, { recursive: true })
})

function busyboxTar() {
  const layout = busyboxImage()
  const blob = (digest: string) => join(layout, "blobs", digest.replace(":", "/"))
  const read = (path: string) => JSON.parse(readFileSync(path, "utf8"))
  const manifest = read(blob(read(join(layout, "index.json")).manifests[0].digest))
  return createReadStream(blob(manifest.layers[0].digest)).pipe(createGunzip())
}

const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex")

test("files, and chunks of files, that stand in the part of a lower layer read as they are", async () => {
  const [small, before] = [randomBytes(5000), randomBytes(40 * CHUNK + 9)]
  const after = Buffer.concat([before, randomBytes(3 * CHUNK)])
  randomBytes(100).copy(after, 7 * CHUNK)
  const layout = join(images, "layout")
  const lower = [
    { path: "d/small", content: small },
    { path: "d/large", content: before },
    { path: "db", content: before },
  ]
  const upper = [
    { path: "d/small", content: small, mode: 0o755 },
    { path: "d/large", content: before, uid: 7 },
    { path: "db", content: after },
  ]
  await packImage(layout, { layers: [{ tar: busyboxTar() }, { files: lower }, { files: upper }] })
  const image = await (await ImageStore.open(images)).load(`oci:${layout}`)
  // Of the file that changed all chunks but one, and its last, which has grown.
  const shared = 2 * 4096 + (before.length - 9 + 4096) + 39 * CHUNK
  expect(image.sharedSize).toBe(shared)

  await using sandbox = await Sandbox.create({ image, paths, ...underTest })
  const script = "cd /; sha256sum d/small d/large db; stat -c '%a %u' d/small d/large db"
  const { stdout } = await sandbox.shell(script, { check: true })
  expect(stdout.split("\n")).toEqual([
    ...[
      ["d/small", small],
      ["d/large", before],
      ["db", after],
    ].map(([path, bytes]) => `${sha256(bytes as Buffer)}  ${path}`),
    ...["755 0", "644 7", "644 0", ""],
  ])
})
