// Sentences of the OCI distribution specification 1.1 for whoever pushes.
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { digestOf } from "../../src/digest.js"
import { OCI_INDEX, OCI_MANIFEST } from "../../src/spec/media-types.js"
import { codeOf } from "../../src/test-support/images.js"
import { type Json, ZEROS } from "./kit.js"
import { Artifact, type Asked, PushTarget, type Reply } from "./push-target.js"

const MIB = 1024 * 1024
const UPLOADS = "/blobs/uploads/"
const SUBJECT = `sha256:${ZEROS}`
const TAG = `/v2/app/manifests/sha256-${ZEROS}`

let target: PushTarget

beforeEach(async () => {
  target = await PushTarget.start()
})

afterEach(() => target[Symbol.asyncDispose]())

const query = ({ url }: Asked) => Object.fromEntries(new URL(url, "http://x").searchParams)

describe("distribution spec: pushing blobs", () => {
  const whole = new Artifact()

  test('Push: "the blobs that make up the object are uploaded first, and the manifest last." → that is the order', async () => {
    await whole.push(target)
    const puts = target.of("PUT").map(({ url }) => url.includes(UPLOADS))
    expect(puts).toEqual([true, true, false])
  })

  test('POST then PUT: "Content-Length is the blob\'s size in bytes; Content-Type: application/octet-stream" → both are sent', async () => {
    await whole.push(target)
    for (const { headers, body } of target.of("PUT", UPLOADS))
      expect(headers).toMatchObject({
        "content-length": `${body.length}`,
        "content-type": "application/octet-stream",
      })
  })

  test('Single POST: "the <digest> MUST match the blob\'s digest." → what is not, is not ended, and no manifest follows', async () => {
    const wrong = new Artifact()
    wrong.served = Buffer.from("b layer")
    expect(await codeOf(() => wrong.push(target))).toBe("digest-mismatch")
    expect(target.of("PUT", "/manifests/")).toEqual([])
  })

  test('POST then PUT: "The <location> MAY contain critical query parameters." → they stay, beside the digest', async () => {
    await whole.push(target)
    for (const put of target.of("PUT", UPLOADS))
      expect(query(put)).toEqual({ s: "a/b", digest: digestOf(put.body) })
  })

  test('POST then PUT: "It SHOULD NOT be assembled manually by clients except where absolute/relative conversion is necessary." → an absolute one on another host is used as it is', async () => {
    await using other = await PushTarget.start()
    const location = `http://${other.host}/anything/at?all=1`
    target.reply = ({ method }) => (method === "POST" ? { status: 202, headers: { location } } : undefined)
    await whole.push(target)
    expect(other.of("PUT").map(({ url }) => url.split("&")[0])).toEqual([
      "/anything/at?all=1",
      "/anything/at?all=1",
    ])
    expect(target.of("PUT", UPLOADS)).toEqual([])
  })

  test('Checking if content exists: "in order to verify that a repository contains a given blob, make a HEAD request" → what is there is not sent', async () => {
    target.reply = ({ method }) => (method === "HEAD" ? { status: 200 } : undefined)
    expect((await whole.push(target)).blobs).toEqual({ present: 2, mounted: 0, uploaded: 0 })
    expect(target.of("POST")).toEqual([])
  })

  test('Cancel a blob upload: "Clients SHOULD send this request when aborting a blob upload" → not followed: what fails is mostly the connection, and registries end uploads by themselves', async () => {
    target.reply = ({ method, url }) =>
      method === "PUT" && url.includes(UPLOADS) ? { status: 400 } : undefined
    expect(await codeOf(() => whole.push(target))).toBe("registry-protocol")
    expect(target.of("DELETE")).toEqual([])
  })

  test('layer.md, Non-Distributable Layers: "Implementations SHOULD NOT upload layers tagged with this media type" → not followed: they are deprecated, and a registry refuses a manifest whose blobs it does not have', async () => {
    const mediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    const { layer } = whole
    const legal = new Artifact({ layers: [{ mediaType, digest: digestOf(layer), size: layer.length }] })
    expect((await legal.push(target)).blobs.uploaded).toBe(2)
  })
})

describe("distribution spec: pushing a blob in chunks", () => {
  const large = new Artifact({}, Buffer.alloc(20 * MIB, "x"))

  /** A registry that does not take blobs whole. */
  async function pushInPieces(minimum?: number): Promise<Asked[]> {
    const location = (n: number) => `/v2/app/blobs/uploads/u?n=${n}`
    target.reply = ({ method, url, body }): Reply | undefined => {
      if (method === "PUT" && url.includes(UPLOADS) && body.length > MIB) return { status: 413 }
      if (method === "PATCH")
        return { status: 202, headers: { location: location(target.of("PATCH").length) } }
      if (method !== "POST" || minimum === undefined) return undefined
      return { status: 202, headers: { location: location(0), "oci-chunk-min-length": `${minimum}` } }
    }
    await large.push(target)
    return target.of("PATCH")
  }

  test('"the post request MUST include the following header: Content-Length: 0" → it does', async () => {
    await pushInPieces()
    for (const { headers } of target.of("POST")) expect(headers["content-length"]).toBe("0")
  })

  test('"It MUST match the regular expression ^[0-9]+-[0-9]+$; the first chunk\'s range MUST begin with 0; inclusive on both ends" → each does', async () => {
    const pieces = await pushInPieces()
    expect(pieces.length).toBeGreaterThan(2)
    let at = 0
    for (const { headers, body } of pieces) {
      expect(headers["content-range"]).toBe(`${at}-${at + body.length - 1}`)
      expect(headers["content-length"]).toBe(`${body.length}`)
      at += body.length
    }
    expect(at).toBe(large.layer.length)
  })

  test('"Chunks MUST be uploaded in order, with the first byte of a chunk being the last chunk\'s <end-of-range> plus one." → together they are the blob', async () => {
    const pieces = await pushInPieces()
    expect(digestOf(Buffer.concat(pieces.map(({ body }) => body)))).toBe(digestOf(large.layer))
  })

  test('"the size of each chunk, except for the final chunk, SHOULD be greater or equal to that value [OCI-Chunk-Min-Length]." → it is', async () => {
    const pieces = await pushInPieces(9 * MIB)
    for (const { body } of pieces.slice(0, -1)) expect(body.length).toBeGreaterThanOrEqual(9 * MIB)
  })

  test('"Each consecutive chunk upload SHOULD use the <location> provided in the response to the previous chunk upload." → and the end, too', async () => {
    const pieces = await pushInPieces(9 * MIB)
    expect(pieces.map(piece => query(piece)["n"])).toEqual(pieces.map((_, i) => `${i}`))
    expect(target.of("PUT", "/uploads/u?").map(put => query(put)["n"])).toContain(`${pieces.length}`)
  })

  test('"The closing PUT request MUST include the <digest> of the whole blob (not the final chunk) as a query parameter." → it does, without content', async () => {
    await pushInPieces()
    const closing = target
      .of("PUT", UPLOADS)
      .filter(put => query(put)["digest"] === digestOf(large.layer))
      .at(-1)
    expect(closing?.body).toHaveLength(0)
  })

  test('"If a chunk is uploaded out of order, the registry MUST respond with a 416" → the upload fails; to ask where it stands and go on is not followed: chunks are the exception, and a new upload is right too', async () => {
    target.reply = ({ method, url, body }) => {
      if (method === "PATCH") return { status: 416 }
      return method === "PUT" && url.includes(UPLOADS) && body.length > MIB ? { status: 413 } : undefined
    }
    expect(await codeOf(() => large.push(target))).toBe("registry-protocol")
    expect(target.of("PUT", "/manifests/")).toEqual([])
  })
})

describe("distribution spec: mounting a blob from another repository", () => {
  const whole = new Artifact()

  test('"it can be mounted into a different repository via a POST request: ?mount=<digest>&from=<other_name>" → nothing is sent', async () => {
    target.reply = ({ url }) => (url.includes("mount=") ? { status: 201 } : undefined)
    expect((await whole.push(target, ":1", { mountFrom: ["base/image"] })).blobs.mounted).toBe(2)
    const digests = [whole.layer, whole.config].map(digestOf)
    for (const post of target.of("POST")) expect(query(post)["from"]).toBe("base/image")
    expect(new Set(target.of("POST").map(post => query(post)["mount"]))).toEqual(new Set(digests))
  })

  test('"it SHOULD return a 202. This indicates that the upload session has begun and that the client MAY proceed with the upload." → it is used', async () => {
    expect((await whole.push(target, ":1", { mountFrom: ["base/image"] })).blobs.uploaded).toBe(2)
    expect(target.of("POST").filter(({ url }) => !url.includes("mount="))).toEqual([])
  })
})

describe("distribution spec: pushing manifests", () => {
  test('"Clients SHOULD set the Content-Type header to the type of the manifest being pushed … MUST set the Content-Type header to the value specified by the mediaType field … SHOULD NOT include parameters" → exactly that', async () => {
    await new Artifact().push(target)
    expect(target.of("PUT", "/manifests/").at(-1)?.headers["content-type"]).toBe(OCI_MANIFEST)
  })

  test('"The registry MUST store the manifest in the exact byte representation provided by the client." → that is what it was, blanks too', async () => {
    const artifact = new Artifact({ annotations: { "com.example.key": "ü" } })
    await artifact.push(target)
    expect(target.of("PUT", "/manifests/1").at(-1)?.body.equals(artifact.manifest)).toBe(true)
  })

  test('"<reference> MUST be either (a) a digest or (b) a tag." → by digest, without a tag', async () => {
    const artifact = new Artifact()
    await artifact.push(target, `@${artifact.digest}`)
    expect(target.of("PUT", "/manifests/").map(({ url }) => url)).toEqual([
      `/v2/app/manifests/${artifact.digest}`,
    ])
  })

  test('"Docker-Content-Digest … if it is used, the client SHOULD verify the value" → another one is an error', async () => {
    const headers = { "docker-content-digest": SUBJECT }
    target.reply = ({ url }) => (url.includes("/manifests/") ? { status: 201, headers } : undefined)
    expect(await codeOf(() => new Artifact().push(target))).toBe("registry-protocol")
  })

  test('"Clients and registries SHOULD expect to support manifest pushes of at least 4 megabytes." → one that nearly is', async () => {
    const artifact = new Artifact({
      annotations: Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`k${i}`, "x".repeat(100_000)])),
    })
    expect(artifact.manifest.length).toBeGreaterThan(3.9e6)
    await artifact.push(target)
    expect(target.of("PUT", "/manifests/1").at(-1)?.body).toHaveLength(artifact.manifest.length)
  })

  test('image-spec, manifest.md: "Implementations storing or copying image manifests MUST NOT error on encountering a mediaType that is unknown to the implementation." → types of config and layer do not matter', async () => {
    const artifact = new Artifact({ artifactType: "application/vnd.example" })
    expect((await artifact.push(target)).blobs.uploaded).toBe(2)
  })
})

describe("distribution spec: pushing manifests with subject", () => {
  const subject = { mediaType: OCI_MANIFEST, digest: SUBJECT, size: 1 }
  const annotations = { "com.example.key": "value" }
  const plain = new Artifact({ subject, annotations })
  const own = (artifact: Artifact, more: Json = {}) => ({
    mediaType: OCI_MANIFEST,
    digest: artifact.digest,
    size: artifact.manifest.length,
    ...more,
  })

  /** Pushes where the tag has this; undefined is nothing. @returns the list that was then put there */
  async function listAfter(artifact: Artifact, there?: Json): Promise<Json> {
    target.reply = ({ method, url }) =>
      method === "GET" && url === TAG && there !== undefined
        ? { status: 200, body: JSON.stringify(there) }
        : undefined
    await artifact.push(target)
    const put = target.of("PUT", TAG).at(-1)
    expect(put?.headers["content-type"] ?? OCI_INDEX).toBe(OCI_INDEX)
    return put && JSON.parse(put.body.toString())
  }

  test('"When processing a request for an image manifest with the subject field, a registry … MUST respond with the response header OCI-Subject" → nothing more is done', async () => {
    const headers = { "oci-subject": SUBJECT }
    target.reply = ({ url }) => (url.includes("/manifests/") ? { status: 201, headers } : undefined)
    await plain.push(target)
    expect(target.asked.filter(({ url }) => url === TAG)).toEqual([])
  })

  test('"If the pull returns a 404, the client MUST begin with an empty image index." → the list has one entry', async () => {
    const entry = own(plain, { artifactType: "application/vnd.example.config", annotations })
    expect(await listAfter(plain)).toEqual({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [entry] })
  })

  test('"The value of the artifactType MUST be set to the artifactType value in the pushed manifest, if present." → it is', async () => {
    const typed = new Artifact({ subject, artifactType: "application/vnd.example" })
    expect((await listAfter(typed)).manifests).toEqual([
      own(typed, { artifactType: "application/vnd.example" }),
    ])
  })

  test('"If the artifactType is empty or missing in a pushed image manifest, the value … MUST be set to the config descriptor mediaType value." → it is', async () => {
    const empty = new Artifact({ subject, artifactType: "" })
    expect((await listAfter(empty)).manifests[0].artifactType).toBe("application/vnd.example.config")
  })

  test('"All annotations from the pushed manifest MUST be copied to this descriptor." → they are', async () => {
    expect((await listAfter(plain)).manifests[0].annotations).toEqual(annotations)
  })

  test('"Append a descriptor for the pushed manifest to the manifests in the referrers list." → what is there stays as it is', async () => {
    const other = { mediaType: OCI_MANIFEST, digest: `sha256:${"1".repeat(64)}`, size: 2, "x-more": [1] }
    const there = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [other], annotations }
    const { manifests, ...rest } = await listAfter(plain, there)
    expect(manifests.map(({ digest }: Json) => digest)).toEqual([other.digest, plain.digest])
    expect([manifests[0], rest]).toEqual([other, { schemaVersion: 2, mediaType: OCI_INDEX, annotations }])
  })

  test('"Verify that the descriptor for the manifest is not already in the referrers list (duplicate entries SHOULD NOT be created)." → then nothing is put', async () => {
    const there = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [own(plain)] }
    expect(await listAfter(plain, there)).toBeUndefined()
  })

  test('"If that pull returns a manifest other than the expected image index, the client SHOULD report a failure and skip the remaining steps." → it does', async () => {
    const there = { schemaVersion: 2, mediaType: OCI_MANIFEST, config: {}, layers: [] }
    expect(await codeOf(() => listAfter(plain, there))).toBe("manifest-invalid")
    expect(target.of("PUT", TAG)).toEqual([])
  })
})
