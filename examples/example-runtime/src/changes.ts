import type { ImageConfig } from "@ts-vmm/oci-image"
import { CliError } from "./exit.js"

/** What `--change` says of how an image is run. */
export type ConfigChanges = Partial<Omit<ImageConfig, "platform">>

/**
 * Reads instructions as a Dockerfile has them: `CMD ["/bin/sh"]`, `ENV NAME=VALUE`, `USER 1000`. Of `CMD`, `ENTRYPOINT`,
 * `USER`, `WORKDIR` and `STOPSIGNAL` the last counts; the others add up.
 */
export function parseChanges(instructions: readonly string[]): ConfigChanges {
  let config: ConfigChanges = {}
  for (const instruction of instructions) config = { ...config, ...change(config, instruction) }
  return config
}

function change(config: ConfigChanges, text: string): ConfigChanges {
  const [, word = "", rest = ""] = /^\s*([A-Za-z]+)\s+(\S.*?)\s*$/s.exec(text) ?? []
  switch (word.toUpperCase()) {
    case "CMD":
      return { cmd: command(rest, text) }
    case "ENTRYPOINT":
      return { entrypoint: command(rest, text) }
    case "ENV":
      return { env: [...(config.env ?? []), pair(rest, text).join("=")] }
    case "LABEL":
      return { labels: { ...config.labels, ...Object.fromEntries([pair(rest, text)]) } }
    case "USER":
      return { user: rest }
    case "WORKDIR":
      return { workingDir: rest }
    case "STOPSIGNAL":
      return { stopSignal: rest }
    case "EXPOSE":
      return { exposedPorts: [...(config.exposedPorts ?? []), ...rest.split(/\s+/).map(port)] }
    case "VOLUME":
      return { volumes: [...(config.volumes ?? []), ...(list(rest) ?? rest.split(/\s+/))] }
    default:
      throw invalid(text)
  }
}

/** The list as it is, or a line for the shell. */
function command(rest: string, text: string): readonly string[] {
  if (!rest.startsWith("[")) return ["/bin/sh", "-c", rest]
  const words = list(rest)
  if (words) return words
  throw invalid(text)
}

function list(rest: string): string[] | undefined {
  try {
    const value: unknown = JSON.parse(rest)
    return Array.isArray(value) && value.every(one => typeof one === "string") ? value : undefined
  } catch {
    return undefined
  }
}

/** `NAME=VALUE`, or `NAME VALUE`; a value may be in double quotes. */
function pair(rest: string, text: string): [string, string] {
  const [, name, value = ""] = /^([^\s=]+)(?:=|\s+)(.*)$/s.exec(rest) ?? []
  if (name === undefined) throw invalid(text)
  return [name, value.replace(/^"(.*)"$/s, "$1")]
}

function port(text: string): string {
  return text.includes("/") ? text : `${text}/tcp`
}

function invalid(text: string): CliError {
  return new CliError(
    `invalid --change ${JSON.stringify(text)}: give CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR as a Dockerfile has them`,
  )
}
