import { createHash } from "node:crypto"
import { mkdirSync, writeFileSync } from "node:fs"
import { gzipSync } from "node:zlib"

const CREATED = "1970-01-01T00:00:00Z"
const ARCHITECTURE = { x64: "amd64", arm64: "arm64" }[process.arch] ?? process.arch
const MEDIA = "application/vnd.oci.image"

const sha256 = bytes => createHash("sha256").update(bytes).digest("hex")

/** How a layer's tar is stored, by the suffix of its media type. */
const PACK = { none: ["", tar => tar], gzip: ["+gzip", tar => gzipSync(tar, { level: 6 })] }

function addBlob(folder, bytes, mediaType) {
  const hex = sha256(bytes)
  writeFileSync(`${folder}/blobs/sha256/${hex}`, bytes)
  return { mediaType, digest: `sha256:${hex}`, size: bytes.length }
}

function addLayer(folder, { tar, compression = "gzip", packed }) {
  const [suffix, pack] = PACK[compression] ?? [`+${compression}`, undefined]
  return addBlob(folder, packed ?? pack(tar), `${MEDIA}.layer.v1.tar${suffix}`)
}

function imageConfig(layers, config) {
  return {
    created: CREATED,
    architecture: ARCHITECTURE,
    os: "linux",
    config,
    rootfs: { type: "layers", diff_ids: layers.map(({ tar }) => `sha256:${sha256(tar)}`) },
    history: layers.map(() => ({ created: CREATED, created_by: "ts-vmm scripts/images" })),
  }
}

/**
 * Writes an OCI image layout folder with one image, without our own packer: what it makes is there to test that, too.
 * @param {string} folder where; must not exist
 * @param {object} image
 * @param {{ tar: Buffer, compression?: "none" | "gzip" | "zstd", packed?: Buffer }[]} image.layers lowest first;
 *   packed: the stored bytes, needed for zstd, which Node 20 cannot write
 * @param {object} image.config the config's `config` member: Env, Cmd, Entrypoint, User, WorkingDir
 */
export function writeOciLayout(folder, { layers, config }) {
  mkdirSync(`${folder}/blobs/sha256`, { recursive: true })
  const json = value => Buffer.from(JSON.stringify(value))
  const manifest = {
    schemaVersion: 2,
    mediaType: `${MEDIA}.manifest.v1+json`,
    config: addBlob(folder, json(imageConfig(layers, config)), `${MEDIA}.config.v1+json`),
    layers: layers.map(layer => addLayer(folder, layer)),
  }
  const descriptor = addBlob(folder, json(manifest), manifest.mediaType)
  const platform = { architecture: ARCHITECTURE, os: "linux" }
  const annotations = { "org.opencontainers.image.ref.name": "latest" }
  const index = {
    schemaVersion: 2,
    mediaType: `${MEDIA}.index.v1+json`,
    manifests: [{ ...descriptor, platform, annotations }],
  }
  writeFileSync(`${folder}/index.json`, json(index))
  writeFileSync(`${folder}/oci-layout`, json({ imageLayoutVersion: "1.0.0" }))
}
