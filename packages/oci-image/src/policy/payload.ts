import { type Digest, parseDigest } from "../digest.js"
import { ImageError, printable } from "../errors.js"
import { type PlacedJson, parseStrictJson, StrictReader } from "./strict-json.js"

/** What a signed payload says. */
export interface SignedClaim {
  /** The manifest or index that it is for. */
  readonly digest: Digest
  /** The name under which it was signed: any text. */
  readonly name: string
}

const TYPE = "cosign container image signature"
const TEXT_MAX = 1024

/**
 * Reads a payload in its only interpretation. Everything under `critical` is known, or the payload is refused: it may
 * restrict what is signed.
 *
 * @param payload - bytes whose signature was checked
 * @throws ImageError `policy-signature`, `digest-invalid`
 * @see containers-signature(5), "JSON DATA FORMAT"; cosign, specs/SIGNATURE_SPEC.md, "Simple Signing"
 */
export function readPayload(payload: Uint8Array): SignedClaim {
  const refuse = ({ path }: { readonly path: string }, why: string) =>
    new ImageError("policy-signature", `its payload: ${path === "" ? "" : `${path} `}${why}`)
  return new PayloadReader(new StrictReader(refuse)).claim(parseStrictJson(payload, refuse))
}

class PayloadReader {
  readonly #read: StrictReader

  constructor(read: StrictReader) {
    this.#read = read
  }

  claim(document: PlacedJson): SignedClaim {
    const read = this.#read
    const critical = read.need(document, read.object(document, ["critical", "optional"]), "critical")
    const fields = read.object(critical, ["identity", "image", "type"])
    const type = this.#text(critical, fields, "type")
    if (type !== TYPE) throw read.bad(critical, `has type ${printable(type)}, which is no image's signature`)
    return {
      digest: parseDigest(this.#inner(critical, fields, "image", "docker-manifest-digest")),
      name: this.#inner(critical, fields, "identity", "docker-reference"),
    }
  }

  #inner(at: PlacedJson, fields: ReadonlyMap<string, PlacedJson>, outer: string, key: string): string {
    const inner = this.#read.need(at, fields, outer)
    return this.#text(inner, this.#read.object(inner, [key]), key)
  }

  #text(at: PlacedJson, fields: ReadonlyMap<string, PlacedJson>, key: string): string {
    return this.#read.text(this.#read.need(at, fields, key), TEXT_MAX)
  }
}
