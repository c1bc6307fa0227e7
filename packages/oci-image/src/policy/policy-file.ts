import { dirname, resolve } from "node:path"
import { type Digest, parseDigest } from "../digest.js"
import { ImageError, isImageError } from "../errors.js"
import { parseReference, type Reference } from "../references.js"
import { type NamePattern, parsePattern, patternKey } from "./name-pattern.js"
import { ALLOW_ALL, type Demand, type Policy, type PolicyRule } from "./policy.js"
import { KEY_MAX, type PublicKey, readPublicKey } from "./public-key.js"
import { readRegularFile, UnusableFile } from "./regular-file.js"
import { readScanCommand } from "./scan-settings.js"
import { type PlacedJson, parseStrictJson, StrictReader } from "./strict-json.js"

const FILE_MAX = 1024 * 1024
const RULES_MAX = 1000
const DIGESTS_MAX = 10_000
const KEYS_MAX = 32
const NAME_MAX = 512
const POLICY_KEYS = ["default", "rules", "scan"]
const RULE_KEYS = ["images", "action", "digests", "signedBy"]
const SIGNED_BY_KEYS = ["keys", "signedAs"]

/** How {@link loadPolicy} takes a file. */
export interface LoadPolicyOptions {
  /** Whether a file that is not there is an error: set it for a file that somebody named. Default false. */
  readonly required?: boolean
}

/**
 * Reads a policy file, with the key files that it names. One that is not there allows everything; one that cannot be
 * read or understood, down to its last key, is an error: nothing runs by a policy that is not whole.
 *
 * @param path - files that it names are relative to its folder
 * @throws ImageError `policy-invalid` with the place: `file`, `line`, `field`
 * @example
 * ```ts
 * import { loadPolicy } from "@ts-vmm/oci-image/policy"
 *
 * const policy = loadPolicy("./policy.json")
 * console.log(policy.default, policy.rules.length)
 * ```
 */
export function loadPolicy(path: string, { required = false }: LoadPolicyOptions = {}): Policy {
  const bytes = readOrRefuse(path, FILE_MAX, why => invalid(path, { line: 0, path: "" }, why))
  if (bytes) return parsePolicy(bytes, path)
  if (required) throw invalid(path, { line: 0, path: "" }, "is not there: write it, or leave the option away")
  return ALLOW_ALL
}

/**
 * Reads a policy out of its file's bytes.
 *
 * @param file - what messages call it; key files are relative to its folder
 * @throws ImageError `policy-invalid`
 */
export function parsePolicy(bytes: Uint8Array, file: string): Policy {
  const refuse = (at: Pick<PlacedJson, "line" | "path">, why: string) => invalid(file, at, why)
  const document = parseStrictJson(bytes, refuse)
  return new PolicyReader(file, new StrictReader(refuse)).policy(document)
}

class PolicyReader {
  readonly #file: string
  readonly #read: StrictReader

  constructor(file: string, read: StrictReader) {
    this.#file = file
    this.#read = read
  }

  policy(document: PlacedJson): Policy {
    const top = this.#read.object(document, POLICY_KEYS)
    const rules = top.get("rules")
    const scan = top.get("scan")
    return {
      file: this.#file,
      default: this.#action(this.#read.need(document, top, "default")),
      rules: rules ? this.#rules(rules) : [],
      ...(scan ? { scan: readScanCommand(this.#read, scan) } : {}),
    }
  }

  #rules(list: PlacedJson): readonly PolicyRule[] {
    const known = new Map<string, number>()
    return this.#read.list(list, RULES_MAX).map((item, i) => {
      const rule = this.#rule(item, i + 1)
      const key = patternKey(rule.pattern)
      const first = known.get(key)
      // Two rules for the same names would make their order matter, which nothing else does.
      if (first !== undefined) throw this.#read.bad(item, `is for the same images as rule ${first}`)
      known.set(key, rule.number)
      return rule
    })
  }

  #rule(item: PlacedJson, number: number): PolicyRule {
    const fields = this.#read.object(item, RULE_KEYS)
    const at = this.#read.need(item, fields, "images")
    const images = this.#read.text(at, NAME_MAX)
    return { number, images, pattern: this.#pattern(at, images), demand: this.#demand(item, fields) }
  }

  #pattern(at: PlacedJson, text: string): NamePattern {
    if (text.includes("@"))
      throw this.#read.bad(at, 'has a digest: name the repository here, and the digest in "digests"')
    return this.#named(at, () => parsePattern(text))
  }

  #demand(item: PlacedJson, fields: ReadonlyMap<string, PlacedJson>): Demand {
    const [action, digests, signedBy] = RULE_KEYS.slice(1).map(key => fields.get(key))
    const given = [action, digests, signedBy].filter(one => one !== undefined)
    if (given.length !== 1) throw this.#read.bad(item, "needs one of action, digests and signedBy")
    if (digests) return { kind: "digests", digests: this.#digests(digests) }
    if (signedBy) return this.#signedBy(signedBy)
    return { kind: this.#action(given[0] as PlacedJson) }
  }

  #action(at: PlacedJson): "allow" | "deny" {
    if (at.value === "allow" || at.value === "deny") return at.value
    throw this.#read.bad(at, 'is neither "allow" nor "deny"')
  }

  #digests(at: PlacedJson): ReadonlySet<Digest> {
    const digests = new Set<Digest>()
    for (const item of this.#read.list(at, DIGESTS_MAX)) {
      const digest = this.#named(item, () => parseDigest(this.#read.text(item, NAME_MAX)))
      if (digests.has(digest)) throw this.#read.bad(item, "is there twice")
      digests.add(digest)
    }
    if (digests.size === 0) throw this.#read.bad(at, 'is empty: write "action": "deny" if that is meant')
    return digests
  }

  #signedBy(at: PlacedJson): Demand {
    const fields = this.#read.object(at, SIGNED_BY_KEYS)
    const keys = this.#read.need(at, fields, "keys")
    const signedAs = fields.get("signedAs")
    return {
      kind: "signature",
      signature: { keys: this.#keys(keys), signedAs: signedAs && this.#signedAs(signedAs) },
    }
  }

  #signedAs(at: PlacedJson): Reference | "*" {
    const text = this.#read.text(at, NAME_MAX)
    if (text === "*") return text
    const name = this.#named(at, () => parseReference(text))
    if (name.tag === undefined && name.digest === undefined) return name
    throw this.#read.bad(at, "has a tag or a digest: only the repository is compared")
  }

  #keys(at: PlacedJson): readonly PublicKey[] {
    const items = this.#read.list(at, KEYS_MAX)
    if (items.length === 0) throw this.#read.bad(at, "is empty: nothing could be signed by it")
    const texts = new Set<string>()
    return items.map(item => {
      const text = this.#read.text(item, KEY_MAX)
      if (texts.has(text)) throw this.#read.bad(item, "is there twice")
      texts.add(text)
      return this.#key(item, text)
    })
  }

  #key(at: PlacedJson, text: string): PublicKey {
    const isInline = text.trimStart().startsWith("-----BEGIN")
    const name = isInline ? `the key at ${at.path}` : text
    const key = readPublicKey(isInline ? text : this.#keyFile(at, text), name)
    if (typeof key !== "string") return key
    throw this.#read.bad(at, isInline ? key : `: ${text} ${key}`)
  }

  #keyFile(at: PlacedJson, path: string): string {
    const whole = resolve(dirname(this.#file), path)
    const bytes = readOrRefuse(whole, KEY_MAX, why => this.#read.bad(at, `: key file ${whole} ${why}`))
    if (!bytes) throw this.#read.bad(at, `: key file ${whole} is not there`)
    return bytes.toString("latin1")
  }

  /** What a reader of names and digests says, with its place. */
  #named<T>(at: PlacedJson, read: () => T): T {
    try {
      return read()
    } catch (error) {
      if (isImageError(error) && error.code !== "policy-invalid")
        throw this.#read.bad(at, `: ${error.message}`)
      throw error
    }
  }
}

function readOrRefuse(path: string, max: number, refuse: (why: string) => ImageError): Buffer | undefined {
  try {
    return readRegularFile(path, max)
  } catch (error) {
    if (error instanceof UnusableFile) throw refuse(error.message)
    throw error
  }
}

/** A refusal that begins with the place as compilers write it. */
function invalid(file: string, { line, path }: Pick<PlacedJson, "line" | "path">, why: string): ImageError {
  const place = line > 0 ? `${file}:${line}` : file
  const field = path.length > 200 ? `${path.slice(0, 197)}...` : path
  const what = `${field}${why.startsWith(":") || field === "" ? "" : " "}${why}`
  return new ImageError("policy-invalid", `policy ${place}: ${what}`, { file, line, field })
}
