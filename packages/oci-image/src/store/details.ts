import type { Digest } from "../digest.js"
import { familiarName, parseReference } from "../references.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import type { StoreContext } from "./context.js"
import { withDocuments } from "./documents.js"
import { repositoryOf } from "./resolve.js"
import { type ImageRecord, StoredImage } from "./stored-image.js"

/**
 * An image as `docker image inspect` shows it, with docker's spelling of the keys. What the image does not say reads as
 * "" or as an empty list or object.
 */
export interface ImageDetails {
  /** Digest of the config document. */
  readonly Id: Digest
  /** Names with tags as people write them: `debian:12`. */
  readonly RepoTags: readonly string[]
  /** The manifest's digest in every repository that the image has a name of: `debian@sha256:…`. */
  readonly RepoDigests: readonly string[]
  /** RFC 3339 text. */
  readonly Created: string
  readonly Author: string
  readonly Architecture: string
  readonly Variant: string
  readonly Os: string
  readonly Config: ImageDetailsConfig
  readonly RootFS: { readonly Type: "layers"; readonly Layers: readonly Digest[] }
  /** Bytes of the image's disk. */
  readonly Size: number
}

/** How to run it. Sets are objects with empty objects as values. @see OCI image spec 1.1, config.md */
export interface ImageDetailsConfig {
  readonly Env: readonly string[]
  readonly Cmd: readonly string[]
  readonly Entrypoint: readonly string[]
  readonly WorkingDir: string
  readonly User: string
  readonly Labels: Readonly<Record<string, string>>
  readonly ExposedPorts: Readonly<Record<string, object>>
  readonly Volumes: Readonly<Record<string, object>>
  readonly StopSignal: string
}

/** Describes an image. @see ImageStore.inspect */
export async function imageDetails(context: StoreContext, record: ImageRecord): Promise<ImageDetails> {
  const names = (await context.names.all()).get(record.digest) ?? []
  const { platform } = record.config
  return withDocuments(context, record, ({ config: { document, diffIds } }) => {
    const fields = new Fields(parseJsonObject(document, "image config"), "image config", "config-invalid")
    return {
      Id: record.configDigest,
      RepoTags: names.filter(name => parseReference(name).tag !== undefined).map(familiarName),
      RepoDigests: repoDigests(names, record.digest),
      Created: fields.string("created", 64) ?? "",
      Author: fields.string("author") ?? "",
      Architecture: platform.architecture,
      Variant: platform.variant ?? "",
      Os: platform.os,
      Config: detailsConfig(record),
      RootFS: { Type: "layers", Layers: diffIds },
      Size: new StoredImage(context.folder, record).size,
    }
  })
}

function repoDigests(names: readonly string[], digest: Digest): string[] {
  return [...new Set(names.map(name => familiarName(`${repositoryOf(name)}@${digest}`)))]
}

function detailsConfig({ config }: ImageRecord): ImageDetailsConfig {
  const set = (keys: readonly string[]) => Object.fromEntries(keys.map(key => [key, {}]))
  return {
    Env: config.env,
    Cmd: config.cmd,
    Entrypoint: config.entrypoint,
    WorkingDir: config.workingDir,
    User: config.user,
    Labels: config.labels,
    ExposedPorts: set(config.exposedPorts),
    Volumes: set(config.volumes),
    StopSignal: config.stopSignal,
  }
}
