// Sentences of the OCI distribution specification 1.1 for whoever pulls and discovers content. Pushes are in
// distribution-push-spec, whole registries in test/interop.
import type { IncomingMessage, ServerResponse } from "node:http"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { digestOf } from "../../src/digest.js"
import { isImageError } from "../../src/errors.js"
import { parseReference } from "../../src/references.js"
import { OCI_INDEX, OCI_MANIFEST } from "../../src/spec/media-types.js"
import { codeOf } from "../../src/test-support/images.js"
import { configOf, pull, TestRegistry, testClient } from "../../src/test-support/test-registry.js"
import { type Clause, type Json, title, ZEROS } from "./kit.js"

let registry: TestRegistry

beforeEach(async () => {
  registry = await TestRegistry.start()
})

afterEach(() => registry[Symbol.asyncDispose]())

/** How a pull of the only image ends: `ok` or the error's code. */
async function pullBy(reference = ":1"): Promise<string> {
  await using client = testClient()
  const code = await codeOf(async () => {
    expect(await pull(client, `${registry.host}/app${reference}`)).toBe(registry.digest)
  })
  return code ?? "ok"
}

type Fault = (response: ServerResponse, request: IncomingMessage, content: Buffer) => void

/** A request that is answered in another way, and how the pull then ends. */
type PullCase = Clause & {
  readonly path: string
  readonly fault: Fault
  readonly reference?: string
  readonly ends: string
}

const manifestAs =
  (headers: Record<string, string>, change = (content: Buffer) => content): Fault =>
  (response, request, content) => {
    const body = change(content)
    response.writeHead(200, { "content-length": body.length, ...headers })
    response.end(request.method === "HEAD" ? undefined : body)
  }
/** A registry of a time before HEAD told anything. */
const withoutHead =
  (fault: Fault): Fault =>
  (response, request, content) => {
    if (request.method === "HEAD") response.writeHead(405).end()
    else fault(response, request, content)
  }
const withMediaType = (mediaType: string) => (content: Buffer) =>
  Buffer.from(JSON.stringify({ ...JSON.parse(content.toString()), mediaType }))
const otherDigest = { "docker-content-digest": `sha256:${ZEROS}` }
const typed = { "content-type": OCI_MANIFEST }

const pulls: readonly PullCase[] = [
  {
    at: "Pulling manifests",
    says: "The client SHOULD ignore parameters on the Content-Type header.",
    here: "a charset does not matter",
    path: "/manifests/",
    fault: manifestAs({ "content-type": `${OCI_MANIFEST}; charset=utf-8` }),
    ends: "ok",
  },
  {
    at: "Pulling manifests",
    says: "If the manifest has a mediaType field, clients SHOULD reject unless the mediaType field's value matches the type specified by the Content-Type header.",
    here: "a manifest that says that it is an index is refused",
    path: "/manifests/",
    fault: withoutHead(manifestAs(typed, withMediaType(OCI_INDEX))),
    ends: "media-type",
  },
  {
    at: "Pulling manifests, Docker-Content-Digest",
    says: "Clients MAY ignore the value, but if it is used, the client MUST verify the value matches the returned manifest.",
    here: "another manifest than announced is refused",
    path: "/manifests/",
    fault: withoutHead(manifestAs({ ...typed, ...otherDigest })),
    ends: "digest-mismatch",
  },
  {
    at: "Pulling manifests",
    says: "If the <reference> part of a manifest request is a digest, clients SHOULD verify the returned manifest matches this digest.",
    here: "another one is refused, whatever the header says",
    path: "/manifests/",
    fault: withoutHead(manifestAs(typed, content => Buffer.concat([content, Buffer.from(" ")]))),
    reference: "@DIGEST",
    ends: "digest-mismatch",
  },
  {
    at: "Pulling manifests",
    says: "If the manifest is not found in the repository, the response code MUST be 404 Not Found.",
    here: "it is told as not found",
    path: "/manifests/",
    fault: response => response.writeHead(404).end(),
    ends: "registry-not-found",
  },
  {
    at: "Pulling blobs",
    says: "Clients SHOULD verify that the response body matches the requested digest.",
    here: "another blob of the same length is refused",
    path: "/blobs/",
    fault: (response, _, content) => void response.end(Buffer.alloc(content.length, "x")),
    ends: "digest-mismatch",
  },
  {
    at: "Pulling blobs, Docker-Content-Digest",
    says: "Most clients MAY ignore the value, but if it is used, the client MUST verify the value matches the returned response body.",
    here: "it is not used: the descriptor's digest counts",
    path: "/blobs/",
    fault: (response, _, content) => void response.writeHead(200, otherDigest).end(content),
    ends: "ok",
  },
  {
    at: "Pulling blobs",
    says: "If the blob is not found in the repository, the response code MUST be 404 Not Found.",
    here: "it is told as not found",
    path: "/blobs/",
    fault: response => response.writeHead(404).end(),
    ends: "registry-not-found",
  },
  {
    at: "Checking if content exists in the registry",
    says: "A HEAD request to an existing blob or manifest URL MUST return 200 OK. [Some registries do not.]",
    here: "the manifest is asked for itself",
    path: "/manifests/",
    fault: withoutHead(manifestAs(typed)),
    ends: "ok",
  },
  {
    at: "Checking if content exists in the registry",
    says: "A successful response SHOULD contain the digest in the header Docker-Content-Digest.",
    here: "without it the manifest is asked for itself",
    path: "/manifests/1",
    fault: manifestAs(typed),
    ends: "ok",
  },
  {
    at: "Backwards Compatibility",
    says: "Client implementations MUST support registries that implement partial or older versions of the OCI Distribution Spec.",
    here: "one without ranges, lengths and digests in headers",
    path: "/v2/",
    fault: withoutHead((response, request, content) => {
      const type = request.url?.includes("/manifests/") ? OCI_MANIFEST : "application/octet-stream"
      response.writeHead(200, { "content-type": type, "transfer-encoding": "chunked" }).end(content)
    }),
    ends: "ok",
  },
  {
    at: "Warnings",
    says: "clients MUST NOT take any automated action based on the presence or contents of warnings, only report them to the user.",
    here: "they change nothing; to report them is not followed: a library has nobody to tell",
    path: "/manifests/",
    fault: (response, request, content) => {
      const headers = { ...typed, warning: '299 - "This image is deprecated."' }
      manifestAs({ ...headers, "docker-content-digest": digestOf(content) })(response, request, content)
    },
    ends: "ok",
  },
  {
    at: "image-spec, media-types.md, Media Type Conflicts",
    says: "Implementations that do not have an expected media type for the blob SHOULD respect the returned media type.",
    here: "a manifest returned as a web page is none",
    path: "/manifests/",
    fault: withoutHead(manifestAs({ "content-type": "text/html" })),
    ends: "media-type",
  },
  {
    at: "image-spec, media-types.md, Media Type Conflicts",
    says: "Respect the expected media type if the blob matches the expected digest.",
    here: "a blob returned as a web page is what its descriptor says",
    path: "/blobs/",
    fault: (response, _, content) =>
      void response.writeHead(200, { "content-type": "text/html" }).end(content),
    ends: "ok",
  },
  {
    at: "Error Codes",
    says: "A 4XX response code from the registry MAY return a body in any format.",
    here: "the status is enough",
    path: "/v2/",
    fault: response => response.writeHead(403).end("<html>"),
    ends: "registry-denied",
  },
  {
    at: "Error Codes, code-14",
    says: "TOOMANYREQUESTS",
    here: "it is tried again, and told as that in the end",
    path: "/v2/",
    fault: response => response.writeHead(429).end(errors("TOOMANYREQUESTS")),
    ends: "registry-rate-limited",
  },
]

function errors(code: string): string {
  return JSON.stringify({ errors: [{ code, message: "a message", detail: {} }] })
}

describe("distribution spec: pull", () => {
  test.each(pulls.map(one => [title(one), one] as const))("%s", async (_, one) => {
    registry.failAt(one.path, one.fault)
    expect(await pullBy(one.reference?.replace("DIGEST", registry.digest))).toBe(one.ends)
  })

  test("Pulling manifests: \"The client SHOULD include an Accept header indicating which manifest content types it supports.\" → OCI's and docker's", async () => {
    expect(await pullBy()).toBe("ok")
    const asked = registry.requests.filter(({ url }) => url?.includes("/manifests/"))
    expect(asked.length).toBeGreaterThan(0)
    for (const { headers } of asked)
      expect(headers.accept?.split(", ")).toEqual(expect.arrayContaining(TYPES))
  })

  test('Resumable Pull: "The client keeps the partial data and uses http Range requests to avoid downloading repeated data." → it goes on from where it was', async () => {
    let isFirst = true
    registry.fault = (request, response, content) => {
      if (!content || !isFirst || !request.url?.includes(registry.layerPath)) return false
      isFirst = false
      response.writeHead(200, { "content-length": content.length })
      response.write(content.subarray(0, 65_536), () => response.destroy())
      return true
    }
    expect(await pullBy()).toBe("ok")
    const [, from] = /^bytes=(\d+)-/.exec(registry.requests.at(-1)?.headers.range ?? "") ?? []
    expect(Number(from)).toBeGreaterThan(0)
    expect(Number(from)).toBeLessThanOrEqual(65_536)
  })

  test('Registry Proxying: "A client SHOULD avoid sending ns query parameters to non-proxy registries." → there are no query parameters at all', async () => {
    expect(await pullBy()).toBe("ok")
    expect(registry.requests.filter(({ url }) => url?.includes("?"))).toEqual([])
  })

  test('Registry Proxying: "Authorization credentials for an upstream registry SHOULD NOT be sent to a proxy registry" → a mirror gets its own or none', async () => {
    registry.fault = (request, response) => {
      if (request.headers.authorization) return false
      response.writeHead(401, { "www-authenticate": "Basic" }).end()
      return true
    }
    const hosts = configOf({ "127.0.0.1:1": { mirrors: [`http://${registry.host}`] } })
    const asked: string[] = []
    const credentials = async (host: string) => {
      asked.push(host)
      return host === registry.host ? undefined : { username: "alice", password: "secret" }
    }
    await using client = testClient({ hosts, credentials, attempts: 1 })
    await codeOf(() => pull(client, "127.0.0.1:1/app:1"))
    expect(asked).toContain(registry.host)
    expect(registry.requests.filter(({ headers }) => headers.authorization)).toEqual([])
  })

  const names: readonly (readonly [string, boolean])[] = [
    ["a-b/c.d/e_f/g__h/i--j", true],
    ["App", false],
    ["a//b", false],
    ["a..b", false],
    ["a___b", false],
    ["-a", false],
    [`app:${"t".repeat(128)}`, true],
    [`app:${"t".repeat(129)}`, false],
    ["app:.t", false],
    ["app:-t", false],
    ["app:T_1.0-a", true],
  ]
  test.each(names)(
    'Pulling manifests: "<name> MUST match the following regular expression", "<reference> as a tag MUST be at most 128 characters" → %s %s',
    async (name, isRight) => {
      const code = await codeOf(() => parseReference(`registry.example/${name}`))
      expect(code).toBe(isRight ? undefined : "reference-invalid")
    },
  )

  const words: readonly (readonly [string, string | undefined])[] = [
    ["MANIFEST_UNKNOWN", "MANIFEST_UNKNOWN"],
    ["SOMETHING_NEW", "SOMETHING_NEW"],
    ["run `this`", undefined],
  ]
  test.each(words)(
    'Error Codes: "The code field MUST be a unique identifier, containing only uppercase alphabetic characters and underscores." → %s is told as %s',
    async (code, reason) => {
      registry.failAt("/manifests/", (response, request) => {
        response.writeHead(404).end(request.method === "HEAD" ? undefined : errors(code))
      })
      await using client = testClient()
      const error = await pull(client, `${registry.host}/app:1`).catch((cause: unknown) => cause)
      expect(isImageError(error) && error.fields["reason"]).toBe(reason)
      expect(isImageError(error) && error.message).not.toContain("a message")
    },
  )
})

const TYPES = [
  OCI_MANIFEST,
  OCI_INDEX,
  "application/vnd.docker.distribution.manifest.v2+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
]

/** What answers below `/v2/app/`, and the types of what is then listed, or the error's code. */
type ReferrersCase = Clause & {
  readonly answers: Readonly<Record<string, { readonly body: Json; readonly link?: string }>>
  readonly artifactType?: string
  readonly expected: readonly string[] | string
}

const SUBJECT = `sha256:${"1".repeat(64)}`
const API = `referrers/${SUBJECT}`
const TAG = `manifests/sha256-${"1".repeat(64)}`
const list = (...names: string[]) => ({
  schemaVersion: 2,
  mediaType: OCI_INDEX,
  manifests: names.map(name => ({
    mediaType: OCI_MANIFEST,
    digest: digestOf(name),
    size: 1,
    artifactType: name,
  })),
})

const discoveries: readonly ReferrersCase[] = [
  {
    at: "Listing Referrers",
    says: "Upon success, the response MUST be a JSON body with an image index containing a list of descriptors.",
    here: "they are listed",
    answers: { [API]: { body: list("a", "b") } },
    expected: ["a", "b"],
  },
  {
    at: "Listing Referrers",
    says: "If the descriptor list cannot be returned in a single response, the response MUST include a Link header.",
    here: "it is followed to the last page",
    answers: {
      [API]: { body: list("a"), link: `</v2/app/${API}?n=2>; rel="next"` },
      [`${API}?n=2`]: { body: list("b") },
    },
    expected: ["a", "b"],
  },
  {
    at: "Listing Referrers",
    says: "The registry SHOULD support filtering on artifactType. [Some do not.]",
    here: "what does not fit is left out here",
    answers: { [`${API}?artifactType=b`]: { body: list("a", "b") } },
    artifactType: "b",
    expected: ["b"],
  },
  {
    at: "Unavailable Referrers API",
    says: "A client querying the referrers API and receiving a 404 Not Found MUST fallback to using an image index pushed to a tag described by the referrers tag schema.",
    here: "the tag is asked",
    answers: { [TAG]: { body: list("a") } },
    expected: ["a"],
  },
  {
    at: "Listing Referrers",
    says: "If the tag schema does not return a valid image index, the client SHOULD assume there are no referrers to the manifest.",
    here: "a tag that is not there",
    answers: {},
    expected: [],
  },
  ...[{ schemaVersion: 2, mediaType: OCI_MANIFEST, config: {}, layers: [] }, "text", []].map(
    (body): ReferrersCase => ({
      at: "Listing Referrers",
      says: "If the tag schema does not return a valid image index, the client SHOULD assume there are no referrers to the manifest.",
      here: `a tag that is ${JSON.stringify(body).slice(0, 40)}`,
      answers: { [TAG]: { body } },
      expected: [],
    }),
  ),
  {
    at: "Listing Referrers",
    says: "Upon success, the response MUST be a JSON body with an image index containing a list of descriptors.",
    here: "another document of the registry's own list is refused",
    answers: { [API]: { body: {} } },
    expected: "manifest-invalid",
  },
]

describe("distribution spec: content discovery", () => {
  test.each(discoveries.map(one => [title(one), one] as const))("%s", async (_, one) => {
    registry.fault = (request, response) => {
      const answer = one.answers[request.url?.replace("/v2/app/", "") ?? ""]
      if (!answer) response.writeHead(404).end()
      else
        response
          .writeHead(200, { "content-type": OCI_INDEX, ...(answer.link ? { link: answer.link } : {}) })
          .end(JSON.stringify(answer.body))
      return true
    }
    await using client = testClient()
    const options = one.artifactType === undefined ? {} : { artifactType: one.artifactType }
    let found: unknown
    const code = await codeOf(async () => {
      const referrers = await client.referrers(`${registry.host}/app@${SUBJECT}`, options)
      found = referrers.map(({ artifactType }) => artifactType)
    })
    expect(code ?? found).toEqual(one.expected)
  })
})
