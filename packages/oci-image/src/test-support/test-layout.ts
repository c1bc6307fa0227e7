import { createHash } from "node:crypto"
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"

/** A layer for an image. */
export interface TestLayer {
  readonly blob: Buffer
  readonly tar: Buffer
  readonly mediaType?: string
  readonly annotations?: Record<string, string>
}

/** A blob's descriptor. */
export interface TestDescriptor {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
}

/** An image layout under construction, of any bytes at all. */
export class TestLayout {
  readonly path: string

  constructor(path: string) {
    this.path = path
    mkdirSync(join(path, "blobs/sha256"), { recursive: true })
    writeFileSync(join(path, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}')
  }

  blobPath(digest: string): string {
    return join(this.path, "blobs/sha256", digest.replace("sha256:", ""))
  }

  put(mediaType: string, content: Buffer | object): TestDescriptor {
    const bytes = Buffer.isBuffer(content) ? content : Buffer.from(JSON.stringify(content))
    const digest = sha256(bytes)
    writeFileSync(this.blobPath(digest), bytes)
    return { mediaType, digest, size: bytes.length }
  }

  /** Writes index.json. */
  index(manifests: readonly object[], more: object = {}): void {
    writeFileSync(join(this.path, "index.json"), JSON.stringify({ schemaVersion: 2, manifests, ...more }))
  }

  /** An image of layer blobs; `change` may spoil its manifest. */
  image(layers: readonly TestLayer[], change: (manifest: ManifestJson) => object = m => m): TestDescriptor {
    const config = this.put("application/vnd.oci.image.config.v1+json", {
      architecture: "amd64",
      os: "linux",
      rootfs: { type: "layers", diff_ids: layers.map(layer => sha256(layer.tar)) },
    })
    const manifest = {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config,
      layers: layers.map(({ blob, mediaType = "application/vnd.oci.image.layer.v1.tar", annotations }) => ({
        ...this.put(mediaType, blob),
        ...(annotations ? { annotations } : {}),
      })),
    }
    const descriptor = this.put(manifest.mediaType, change(manifest))
    this.index([descriptor])
    return descriptor
  }
}

/** The manifest that a test may spoil. */
export interface ManifestJson {
  schemaVersion: number
  mediaType: string
  config: TestDescriptor
  layers: TestDescriptor[]
}

export function sha256(bytes: Buffer): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`
}
