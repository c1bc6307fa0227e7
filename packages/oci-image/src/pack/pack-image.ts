import { createHash } from "node:crypto"
import { mkdir, open, rename, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { pipeline, Readable } from "node:stream"
import zlib from "node:zlib"
import { type Digest, digestHex, digestOf, finishDigest } from "../digest.js"
import { ioError } from "../errors.js"
import type { ImageConfig } from "../spec/config.js"
import type { Descriptor } from "../spec/manifest.js"
import { OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_LAYER_TAR, OCI_MANIFEST } from "../spec/media-types.js"
import { hostPlatform, type Platform } from "../spec/platform.js"
import { type PackFile, packFileItem, tarStream } from "./items.js"
import { walkFolder } from "./walk.js"

/** Where a layer's files come from: code, a folder, or a tar stream that is taken as it is. */
export type LayerInput =
  | { readonly files: Iterable<PackFile> }
  | { readonly folder: string }
  | { readonly tar: AsyncIterable<Uint8Array> | Iterable<Uint8Array> }

/** How to run an image: what a config document says of it. */
export type RunOptions = Partial<Omit<ImageConfig, "platform">>

/** What an image is made of. */
export interface PackOptions {
  /** Lowest first. */
  readonly layers: readonly LayerInput[]
  /** How to run it. */
  readonly config?: RunOptions
  /** Default: Linux on this processor. */
  readonly platform?: Platform
  /** Name inside the layout. Default `latest`. */
  readonly tag?: string
  /** Default `none`. */
  readonly compression?: "none" | "gzip"
  readonly signal?: AbortSignal
}

/** An image that was written. */
export interface PackedImage {
  readonly folder: string
  readonly tag: string
  readonly digest: Digest
  readonly configDigest: Digest
}

/**
 * Writes an OCI image layout with one image. Equal input gives equal digests: nothing in it depends on the
 * time or the machine (a folder's files have their times, of course).
 *
 * @param folder - where to; made when missing
 * @throws ImageError `source-missing`, `source-invalid`, `io`
 *
 * @example
 * ```ts
 * await packImage("./image", {
 *   layers: [{ files: [{ path: "hello", content: "hi\n", mode: 0o755 }] }],
 *   config: { cmd: ["/hello"] },
 * })
 * const image = await store.load("oci:./image:latest")
 * ```
 */
export async function packImage(folder: string, options: PackOptions): Promise<PackedImage> {
  try {
    await mkdir(join(folder, "blobs/sha256"), { recursive: true })
    const layers: PackedLayer[] = []
    for (const layer of options.layers) layers.push(await packLayer(folder, layer, options))
    const config = await putDocument(folder, OCI_CONFIG, configDocument(options, layers))
    const manifest = await putDocument(folder, OCI_MANIFEST, {
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config,
      layers: layers.map(layer => layer.descriptor),
    })
    const tag = options.tag ?? "latest"
    const entry = { ...manifest, annotations: { "org.opencontainers.image.ref.name": tag } }
    await writeJson(join(folder, "index.json"), {
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: [entry],
    })
    await writeJson(join(folder, "oci-layout"), { imageLayoutVersion: "1.0.0" })
    return { folder, tag, digest: manifest.digest, configDigest: config.digest }
  } catch (error) {
    throw (error as NodeJS.ErrnoException).syscall ? ioError(error, "cannot write the image") : error
  }
}

/** A layer that was written, and the digest of its tar stream. */
export interface PackedLayer {
  readonly descriptor: Descriptor
  readonly diffId: Digest
}

/** Writes a layer into the `blobs/sha256` of a folder. */
export async function packLayer(
  folder: string,
  input: LayerInput,
  options: Pick<PackOptions, "compression" | "signal">,
): Promise<PackedLayer> {
  const temporary = join(folder, `.layer-${process.pid}`)
  const diff = createHash("sha256")
  const hashed = tap(layerTar(input), chunk => void diff.update(chunk), options.signal)
  const gzip = options.compression === "gzip"
  try {
    const { digest, size } = await writeBlob(temporary, gzip ? compressed(hashed) : hashed)
    await rename(temporary, join(folder, "blobs/sha256", digestHex(digest)))
    return {
      descriptor: { mediaType: gzip ? OCI_LAYER_GZIP : OCI_LAYER_TAR, digest, size },
      diffId: finishDigest(diff),
    }
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

function layerTar(input: LayerInput): AsyncIterable<Uint8Array> | Iterable<Uint8Array> {
  if ("tar" in input) return input.tar
  return tarStream("folder" in input ? walkFolder(input.folder) : Array.from(input.files, packFileItem))
}

async function* tap(
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  see: (chunk: Uint8Array) => void,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    signal?.throwIfAborted()
    see(chunk)
    yield chunk
  }
}

async function* compressed(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const gzip = zlib.createGzip()
  pipeline(Readable.from(chunks), gzip, () => undefined)
  yield* gzip
}

/** Gathers small chunks, since a layer is mostly headers and small files, and writes them. */
async function writeBlob(
  path: string,
  chunks: AsyncIterable<Uint8Array>,
): Promise<{ digest: Digest; size: number }> {
  const hash = createHash("sha256")
  const file = await open(path, "w")
  let size = 0
  try {
    let pending: Uint8Array[] = []
    let pendingSize = 0
    for await (const chunk of chunks) {
      hash.update(chunk)
      size += chunk.length
      pending.push(chunk)
      pendingSize += chunk.length
      if (pendingSize < 512 * 1024) continue
      await file.writeFile(Buffer.concat(pending))
      pending = []
      pendingSize = 0
    }
    await file.writeFile(Buffer.concat(pending))
  } finally {
    await file.close()
  }
  return { digest: finishDigest(hash), size }
}

function configDocument(options: PackOptions, layers: readonly PackedLayer[]): object {
  return {
    ...(options.platform ?? hostPlatform()),
    config: runConfigDocument(options.config ?? {}),
    rootfs: { type: "layers", diff_ids: layers.map(layer => layer.diffId) },
  }
}

/** The `config` of a config document. @see OCI image spec 1.1, config.md */
export function runConfigDocument(config: RunOptions): object {
  const { env, cmd, entrypoint, workingDir, user, stopSignal, exposedPorts, volumes, labels } = config
  const set = (keys: readonly string[]) => Object.fromEntries(keys.map(key => [key, {}]))
  return {
    ...(env ? { Env: env } : {}),
    ...(cmd ? { Cmd: cmd } : {}),
    ...(entrypoint ? { Entrypoint: entrypoint } : {}),
    ...(workingDir ? { WorkingDir: workingDir } : {}),
    ...(user ? { User: user } : {}),
    ...(stopSignal ? { StopSignal: stopSignal } : {}),
    ...(exposedPorts ? { ExposedPorts: set(exposedPorts) } : {}),
    ...(volumes ? { Volumes: set(volumes) } : {}),
    ...(labels ? { Labels: labels } : {}),
  }
}

async function putDocument(folder: string, mediaType: string, document: object): Promise<Descriptor> {
  const bytes = Buffer.from(JSON.stringify(document))
  const digest = digestOf(bytes)
  await writeFile(join(folder, "blobs/sha256", digestHex(digest)), bytes)
  return { mediaType, digest, size: bytes.length }
}

async function writeJson(path: string, document: object): Promise<void> {
  await writeFile(path, JSON.stringify(document))
}
