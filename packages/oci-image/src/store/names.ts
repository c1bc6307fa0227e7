import { createHash } from "node:crypto"
import { readdir, readFile, rm } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, parseDigest } from "../digest.js"
import { ioError, isImageError } from "../errors.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import { OCI_INDEX } from "../spec/media-types.js"
import type { StoreFolder } from "./folder.js"
import { type ImageRecord, readRecord } from "./stored-image.js"

const SHA256_HEX = /^[0-9a-f]{64}$/

/** The names of a store: one small file each, so that setting one never touches another. */
export class ImageNames {
  readonly #folder: StoreFolder

  constructor(folder: StoreFolder) {
    this.#folder = folder
  }

  /** The manifest digest a name stands for. @param name - in its stored spelling */
  async get(name: string): Promise<Digest | undefined> {
    return (await this.#read(this.#path(name)))?.digest
  }

  async set(name: string, digest: Digest): Promise<void> {
    if ((await this.get(name)) === digest) return
    await this.#folder.replaceFile(this.#path(name), JSON.stringify({ name, digest }))
  }

  async delete(name: string): Promise<void> {
    await rm(this.#path(name), { force: true })
  }

  /** All names by manifest digest, sorted. */
  async all(): Promise<Map<Digest, string[]>> {
    const byDigest = new Map<Digest, string[]>()
    const folder = this.#folder.top("refs")
    for (const file of await readdir(folder)) {
      const found = await this.#read(join(folder, file))
      if (found) byDigest.set(found.digest, [...(byDigest.get(found.digest) ?? []), found.name].sort())
    }
    return byDigest
  }

  #path(name: string): string {
    return join(this.#folder.top("refs"), createHash("sha256").update(name).digest("hex"))
  }

  async #read(path: string): Promise<StoredName | undefined> {
    const bytes = await readFile(path).catch(error => {
      if (error.code === "ENOENT") return undefined
      throw ioError(error, "cannot read the image store")
    })
    return bytes && parseName(bytes)
  }
}

interface StoredName {
  readonly name: string
  readonly digest: Digest
}

/** A damaged name counts as not there. */
function parseName(bytes: Buffer): StoredName | undefined {
  try {
    const fields = new Fields(parseJsonObject(bytes, "stored name"), "stored name", "store-corrupt")
    return { name: fields.string("name") ?? "", digest: parseDigest(fields.raw("digest")) }
  } catch (error) {
    if (isImageError(error)) return undefined
    throw error
  }
}

/** All images of a store, by digest. */
export async function readRecords(folder: StoreFolder): Promise<ImageRecord[]> {
  const names = (await readdir(folder.top("images"))).filter(name => SHA256_HEX.test(name)).sort()
  const records = await Promise.all(names.map(name => readRecord(folder, `sha256:${name}`)))
  return records.filter(record => record !== undefined)
}

/**
 * Rewrites `index.json`, which is a view of names and images for other tools. Whoever changed something calls
 * this afterwards; the last writer finds nothing changed since it looked, so no change is lost.
 */
export async function refreshIndex(folder: StoreFolder, names: ImageNames): Promise<void> {
  let written = ""
  for (;;) {
    const content = await renderIndex(folder, names)
    if (content === written) return
    await folder.replaceFile(folder.top("index.json"), content, false)
    written = content
  }
}

async function renderIndex(folder: StoreFolder, names: ImageNames): Promise<string> {
  const byDigest = await names.all()
  const manifests = (await readRecords(folder)).flatMap(({ digest, mediaType, manifestSize: size }) => {
    const tags = byDigest.get(digest) ?? []
    const descriptor = { mediaType, digest, size }
    if (tags.length === 0) return [descriptor]
    return tags.map(tag => ({ ...descriptor, annotations: { "org.opencontainers.image.ref.name": tag } }))
  })
  return JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests })
}
