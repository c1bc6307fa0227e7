import { existsSync, readdirSync, readFileSync } from "node:fs"
import { SetupError } from "./report.mjs"

const PARTS = "/etc/apt/sources.list.d"
const MAIN_LIST = "/etc/apt/sources.list"
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

/** Stanzas of a deb822 file as maps of lower-case field names. */
function parseDeb822(text) {
  const lines = text.split("\n").filter(line => !line.startsWith("#"))
  const stanzas = lines.join("\n").split(/\n\s*\n/)
  return stanzas.map(stanza =>
    Object.fromEntries(
      [...stanza.matchAll(/^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)/gm)].map(([, name, value]) => [
        name.toLowerCase(),
        value.trim(),
      ]),
    ),
  )
}

function deb822Sources(text) {
  const isUsed = stanza => stanza.types?.split(/\s+/).includes("deb") && stanza.enabled !== "no"
  const used = parseDeb822(text).filter(isUsed)
  return used.flatMap(({ uris = "", suites = "" }) => {
    return uris.split(/\s+/).flatMap(uri => suites.split(/\s+/).map(suite => ({ uri, suite })))
  })
}

function oneLineSources(text) {
  const lines = text.matchAll(/^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)/gm)
  return [...lines].map(([, uri, suite]) => ({ uri, suite }))
}

function allSources() {
  const parts = existsSync(PARTS) ? readdirSync(PARTS).map(name => `${PARTS}/${name}`) : []
  const read = path => readFileSync(path, "utf8")
  return [MAIN_LIST, ...parts].filter(existsSync).flatMap(path => {
    if (path.endsWith(".sources")) return deb822Sources(read(path))
    return path.endsWith(".list") ? oneLineSources(read(path)) : []
  })
}

const strip = uri => uri.replace(/\/$/, "")

/** The version name of the system, such as "bookworm". */
export function debianCodename() {
  return /^VERSION_CODENAME=(\S+)/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "bookworm"
}

/**
 * The mirror that this machine's apt takes Debian from. No address is written into the project: it is read from the
 * system's own configuration each time.
 * @returns {string} the URI without a slash at the end
 * @throws SetupError when apt is not configured for Debian
 */
export function debianMirror() {
  const release = debianCodename()
  const found = allSources().find(({ suite }) => suite === release)
  if (!found) throw new SetupError(`apt has no source for ${release}: see ${PARTS} and ${MAIN_LIST}`)
  return strip(found.uri)
}

/**
 * Source lines for suites of the machine's own mirror, in apt's one-line form.
 * @param {string[]} suites such as "bookworm" or "bookworm-backports"
 */
export function sourceLines(suites) {
  const option = existsSync(KEYRING) ? `[signed-by=${KEYRING}] ` : ""
  return suites.map(suite => `deb ${option}${debianMirror()} ${suite} main`)
}
