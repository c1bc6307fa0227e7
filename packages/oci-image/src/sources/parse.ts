/** What the text of a source means. */
export type SourceSpec =
  | { readonly kind: "oci" | "oci-archive" | "docker-archive"; readonly path: string; readonly tag?: string }
  | { readonly kind: "rootfs" | "path"; readonly path: string }

const TRANSPORT = /^(oci|oci-archive|docker-archive|rootfs):(.+)$/s

/**
 * Reads the text of a local source: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:TAG]`,
 * `rootfs:DIR`, or a path that starts with `/`, `./` or `../`.
 *
 * @returns undefined when the text is none of these, so that it may be an image's name
 */
export function parseSource(text: string): SourceSpec | undefined {
  const [, transport, rest] = TRANSPORT.exec(text) ?? []
  if (rest === undefined) {
    return /^(\/|\.\.?(\/|$))/.test(text) ? { kind: "path", path: text } : undefined
  }
  if (transport === "rootfs") return { kind: "rootfs", path: rest }
  const kind = transport as "oci" | "oci-archive" | "docker-archive"
  const colon = rest.indexOf(":")
  return colon < 0 ? { kind, path: rest } : { kind, path: rest.slice(0, colon), tag: rest.slice(colon + 1) }
}
