/** Media types of the OCI image spec 1.1 (media-types.md) and of Docker's image manifest v2, schema 2. */

export const OCI_INDEX = "application/vnd.oci.image.index.v1+json"
export const OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
export const OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
export const OCI_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
export const OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
export const OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

export const DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
export const DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
export const DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

/** How a layer blob is packed. */
export type Compression = "none" | "gzip" | "zstd"

export const INDEX_TYPES: ReadonlySet<string> = new Set([OCI_INDEX, DOCKER_INDEX])
export const MANIFEST_TYPES: ReadonlySet<string> = new Set([OCI_MANIFEST, DOCKER_MANIFEST])
export const CONFIG_TYPES: ReadonlySet<string> = new Set([OCI_CONFIG, DOCKER_CONFIG])

/** The media type of a layer that is packed so. */
export const OCI_LAYER: Readonly<Record<Compression, string>> = {
  none: OCI_LAYER_TAR,
  gzip: OCI_LAYER_GZIP,
  zstd: OCI_LAYER_ZSTD,
}

/** Layer media types that can be read, and what the blob must then be. */
export const LAYER_COMPRESSION: ReadonlyMap<string, Compression> = new Map<string, Compression>([
  [OCI_LAYER_TAR, "none"],
  [OCI_LAYER_GZIP, "gzip"],
  [OCI_LAYER_ZSTD, "zstd"],
  ["application/vnd.docker.image.rootfs.diff.tar", "none"],
  ["application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"],
  ["application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd"],
])

const FOREIGN_LAYER =
  /^application\/vnd\.(?:oci\.image\.layer\.nondistributable\.|docker\.image\.rootfs\.foreign\.)/

/**
 * Whether a layer is one that registries do not hand out: it would have to be fetched from addresses that the
 * image names. That is never done.
 *
 * @see OCI image spec 1.1, layer.md, "Non-Distributable Layers"
 */
export function isForeignLayer(mediaType: string): boolean {
  return FOREIGN_LAYER.test(mediaType)
}
