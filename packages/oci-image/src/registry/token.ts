import { ImageError } from "../errors.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import type { Credentials } from "./credentials.js"
import { type Endpoint, endpointFor } from "./hosts.js"
import { readBody } from "./read-body.js"
import { isTrustedRealm, readRealm } from "./realm.js"
import { type Answer, discard, type Transport } from "./transport.js"

const REPLY_MAX = 1024 * 1024
const TOKEN_MAX = 65_536
/** What a header may carry: no way to end it early. */
const TOKEN = /^[\x21-\x7e]+$/
/** How long a token lives of which its maker does not say, and the longest that is believed, in seconds. */
const LIFE_DEFAULT = 60
const LIFE_MAX = 86_400
const CLIENT_ID = "ts-vmm"

/** What a token is asked for. */
export interface TokenRequest {
  /** Of the challenge: `realm`, `service`. */
  readonly parameters: ReadonlyMap<string, string>
  readonly scopes: readonly string[]
  /** Who sent the challenge. */
  readonly endpoint: Endpoint
  readonly credentials: Credentials | undefined
  readonly signal: AbortSignal | undefined
}

/** A token, and how long it is good for. */
export interface Token {
  readonly value: string
  readonly lifeMs: number
}

/**
 * Has a token made. Credentials go along if the realm is trusted with them.
 *
 * @throws ImageError `registry-unauthorized`, `registry-protocol`, `registry-insecure`, `limit`, and what asking throws
 * @see distribution/distribution, "Token Authentication Specification", "Oauth2 Token Authentication"
 */
export async function fetchToken(transport: Transport, request: TokenRequest): Promise<Token> {
  const realm = readRealm(request.parameters.get("realm"), request.endpoint, transport.hosts)
  const isTrusted = isTrustedRealm(realm, request.endpoint)
  const answer = await askFor(transport, realm, request, isTrusted ? request.credentials : undefined)
  if (answer.statusCode === 200) {
    const origin = { url: realm, transport, signal: request.signal }
    return readToken(await readBody(answer, REPLY_MAX, origin), realm.host)
  }
  await discard(answer)
  throw notGiven(realm, request, answer.statusCode, isTrusted)
}

function askFor(
  transport: Transport,
  realm: URL,
  { parameters, scopes, endpoint, signal }: TokenRequest,
  credentials: Credentials | undefined,
): Promise<Answer> {
  const query = new URLSearchParams(scopes.map((scope): [string, string] => ["scope", scope]))
  const service = parameters.get("service")
  if (service) query.set("service", service)
  const common = { endpoint: endpointFor(realm, endpoint, transport.hosts), signal }
  const accept = { accept: "application/json" }
  if (credentials?.identityToken) {
    const form = tokenForm(scopes, service, credentials.identityToken)
    const headers = { ...accept, "content-type": "application/x-www-form-urlencoded" }
    return transport.send({ ...common, method: "POST", url: realm, headers, body: () => form })
  }
  const url = new URL(realm)
  url.searchParams.delete("scope")
  for (const [key, value] of query) url.searchParams.append(key, value)
  const authorization = credentials && basicAuthorization(credentials)
  return transport.send({ ...common, url, headers: accept, authorization })
}

/** Here scopes are one parameter, apart by spaces. */
function tokenForm(scopes: readonly string[], service: string | undefined, refreshToken: string): Buffer {
  const form = new URLSearchParams({
    grant_type: "refresh_token",
    refresh_token: refreshToken,
    client_id: CLIENT_ID,
    service: service ?? "",
    scope: scopes.join(" "),
  })
  return Buffer.from(form.toString())
}

function readToken(body: Buffer, host: string): Token {
  const fields = new Fields(parseJsonObject(body, `the token of ${host}`), host, "registry-protocol")
  const value = fields.string("token", TOKEN_MAX) || fields.string("access_token", TOKEN_MAX)
  const life = fields.has("expires_in") ? fields.count("expires_in") : LIFE_DEFAULT
  if (value && TOKEN.test(value)) return { value, lifeMs: Math.min(life, LIFE_MAX) * 1000 }
  throw new ImageError("registry-protocol", `${host} answers without a token`, { host })
}

function notGiven(realm: URL, request: TokenRequest, status: number, isTrusted: boolean): ImageError {
  const { host } = new URL(request.endpoint.origin)
  const fields = { host, realm: realm.host, status }
  if (![400, 401, 403, 404].includes(status))
    return new ImageError(
      "registry-protocol",
      `${realm.host} answers HTTP ${status} instead of a token`,
      fields,
    )
  const why = !request.credentials
    ? "wants credentials: use docker login"
    : isTrusted
      ? "does not take these credentials"
      : `has its tokens made by ${realm.host}, another host: list it in tokenHosts of ${host} to trust it`
  return new ImageError("registry-unauthorized", `${host} ${why}`, fields)
}

/** @see RFC 7617 */
export function basicAuthorization({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`
}
