/** One way in that a registry offers with a 401. @see RFC 9110, 11.6.1 */
export interface Challenge {
  /** In lower case: `bearer`, `basic`. */
  readonly scheme: string
  /** Names in lower case. */
  readonly parameters: ReadonlyMap<string, string>
}

/** Longest header that is looked at, in characters; what registries send has some 200. A longer one offers nothing. */
const HEADER_MAX = 8192
const CHALLENGES_MAX = 16
const SCHEME = /[ \t,]*([A-Za-z][A-Za-z0-9_-]*)(?=[ \t,]|$)/y
const PARAMETER = /[ \t,]*([A-Za-z][A-Za-z0-9_-]*)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))/y

/**
 * Reads a `WWW-Authenticate` header. What cannot be read ends the list: the challenges before it stand.
 *
 * @param header - the field's value; several fields are joined by a comma
 */
export function parseChallenges(header: string): Challenge[] {
  const text = header.length > HEADER_MAX ? "" : header
  const challenges: Challenge[] = []
  let at = 0
  while (challenges.length < CHALLENGES_MAX) {
    const scheme = matchAt(SCHEME, text, at)
    if (!scheme) break
    at = SCHEME.lastIndex
    const parameters = new Map<string, string>()
    for (let found = matchAt(PARAMETER, text, at); found; found = matchAt(PARAMETER, text, at)) {
      at = PARAMETER.lastIndex
      const [, name = "", quoted, plain = ""] = found
      // The first of equal names: a proxy that looked at it did so too.
      if (!parameters.has(name.toLowerCase()))
        parameters.set(name.toLowerCase(), quoted === undefined ? plain : quoted.replace(/\\(.)/g, "$1"))
    }
    challenges.push({ scheme: (scheme[1] as string).toLowerCase(), parameters })
  }
  return challenges
}

function matchAt(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at
  return pattern.exec(text)
}
