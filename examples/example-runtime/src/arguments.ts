import type { PublishedPort, SandboxMount, SandboxRootfs, SandboxStorage } from "@ts-vmm/runtime"
import { CliError } from "./exit.js"

const MIB_OF_SUFFIX: Readonly<Record<string, number>> = { "": 1, m: 1, g: 1024 }

/** A parser of `256`, `256m` or `1g`, in MiB, for one option. */
export function memoryParser(option: string): (text: string) => number {
  return text => {
    const match = /^(\d{1,9})([mg]?)$/i.exec(text)
    const factor = match && MIB_OF_SUFFIX[(match[2] as string).toLowerCase()]
    if (!match || !factor)
      throw new CliError(`invalid ${option} "${text}": give MiB, or a number with m or g`)
    return Number(match[1]) * factor
  }
}

const SIZE_UNITS: Readonly<Record<string, number>> = { k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 }

/** `1073741824`, `1g` or `1.5gb`, in bytes; undefined for what is no size. */
function sizeOf(text: string): number | undefined {
  const match = /^(\d{1,16}(?:\.\d{1,3})?)([kmgt]?)b?$/i.exec(text)
  return match
    ? Math.ceil(Number(match[1]) * (SIZE_UNITS[(match[2] as string).toLowerCase()] ?? 1))
    : undefined
}

/** `size=1g`, as docker has it, rounded up to MiB: the limit of a disk for what containers write. */
export function parseStorageOption(text: string): SandboxStorage {
  const size = text.startsWith("size=") ? sizeOf(text.slice("size=".length)) : undefined
  if (size === undefined)
    throw new CliError(`invalid --storage-opt "${text}": give size=NUMBER with k, m, g or t`)
  return { kind: "disk", sizeMiB: Math.ceil(size / 1024 ** 2) }
}

/** Bytes of a disk. */
export function parseDiskSize(text: string): number {
  const size = sizeOf(text)
  if (size === undefined)
    throw new CliError(`invalid --size "${text}": give bytes, or a number with k, m, g or t`)
  return size
}

/** Bytes per second. */
export function parseDiskRate(text: string): number {
  const rate = sizeOf(text)
  if (!rate) throw new CliError(`invalid --disk-bps "${text}": give bytes, or a number with k, m, g or t`)
  return rate
}

/** Requests per second. */
export function parseDiskOperations(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text))
    throw new CliError(`invalid --disk-iops "${text}": give a whole number more than 0`)
  return Number(text)
}

/** A parser of a whole number of virtual CPUs, for one option. */
export function cpusParser(option: string): (text: string) => number {
  return text => {
    if (!/^\d{1,3}$/.test(text)) throw new CliError(`invalid ${option} "${text}": give a whole number`)
    return Number(text)
  }
}

/** A parser of a positive number of seconds, up to a day, for one option. */
export function secondsParser(option: string): (text: string) => number {
  return text => {
    const seconds = Number(text)
    if (!/^\d{1,5}(\.\d{1,3})?$/.test(text) || seconds <= 0 || seconds > 86_400)
      throw new CliError(`invalid ${option} "${text}": give seconds`)
    return seconds
  }
}

const VOLUME_WORDS: ReadonlyMap<string, Partial<SandboxMount>> = new Map([
  ["ro", { readOnly: true }],
  ["rw", { readOnly: false }],
  ["dax", { dax: true }],
])

/** Collects `-v SOURCE:TARGET[:WORD,…]`, as docker does. */
export function parseVolume(text: string, before: readonly SandboxMount[]): SandboxMount[] {
  const [source, target, words = "rw", ...rest] = text.split(":")
  const options = words.split(",").map(word => VOLUME_WORDS.get(word))
  if (!source || !target || rest.length > 0 || options.includes(undefined))
    throw new CliError(`invalid --volume "${text}": give SOURCE:TARGET, and :ro, :dax or :ro,dax`)
  return [...before, Object.assign({ source, target, readOnly: false }, ...options) as SandboxMount]
}

/** What `--mount` calls its parts, as docker does. */
const MOUNT_KEYS: ReadonlyMap<string, string> = new Map([
  ["type", "type"],
  ["source", "source"],
  ["src", "source"],
  ["target", "target"],
  ["dst", "target"],
  ["fstype", "fsType"],
  ["format", "format"],
])

/** What is on when it is named. */
const MOUNT_FLAGS: ReadonlyMap<string, string> = new Map([
  ["readonly", "readOnly"],
  ["ro", "readOnly"],
  ["locks", "locks"],
  ["acl", "acl"],
  ["dax", "dax"],
  ["direct", "direct"],
])

/** Collects `--mount type=TYPE,source=PATH,target=PATH[,fstype=NAME][,format=NAME][,readonly][,locks][,acl][,dax][,direct]`, as docker does. */
export function parseMount(text: string, before: readonly SandboxMount[]): SandboxMount[] {
  const fields: Record<string, string | boolean> = {}
  for (const part of text.split(",")) {
    const [key = "", value] = part.split(/=(.*)/s)
    const name = MOUNT_KEYS.get(key)
    const flag = MOUNT_FLAGS.get(key)
    if (name !== undefined && value) fields[name] = value
    else if (flag !== undefined && value === undefined) fields[flag] = true
    else throw new CliError(`invalid --mount "${text}": "${part}" is not known`)
  }
  if (!fields["source"] || !fields["target"])
    throw new CliError(`invalid --mount "${text}": give source=PATH and target=PATH`)
  // The runtime checks types and paths itself, and says which there are.
  return [...before, fields as unknown as SandboxMount]
}

const DISK_WORDS: ReadonlyMap<string, Partial<SandboxMount>> = new Map([
  ["ro", { readOnly: true }],
  ["rw", { readOnly: false }],
  ["raw", { format: "raw" }],
  ["qcow2", { format: "qcow2" }],
  ["direct", { direct: true }],
])

/** Collects `--disk SOURCE:TARGET[:WORD,…]`: the format is said, never guessed. */
export function parseDisk(text: string, before: readonly SandboxMount[]): SandboxMount[] {
  const [source, target, words, ...rest] = text.split(":")
  const options = words?.split(",").map(word => DISK_WORDS.get(word)) ?? []
  if (!source || !target || rest.length > 0 || options.includes(undefined))
    throw new CliError(
      `invalid --disk "${text}": give SOURCE:TARGET, and :${[...DISK_WORDS.keys()].join(",")}`,
    )
  return [...before, Object.assign({ type: "disk", source, target }, ...options)]
}

/**
 * `PATH`, `PATH:O` or `PATH:rw`: a root file system of the host, below a top that takes what is written, as podman's `:O`,
 * or written to itself.
 */
export function parseRootfs(kind: SandboxRootfs["kind"], text: string): SandboxRootfs {
  const [, path = "", mode = "O"] = /^(.*?)(?::(O|rw))?$/s.exec(text) ?? []
  return { kind, path, writable: mode === "rw" }
}

/** Collects `-p [ADDRESS:]HOST:GUEST[/udp]`, as docker does. */
export function parsePort(text: string, before: readonly PublishedPort[]): PublishedPort[] {
  const match = /^(?:(\d[\d.]*):)?(\d{1,5}):(\d{1,5})(?:\/(tcp|udp))?$/.exec(text)
  if (!match)
    throw new CliError(`invalid --publish "${text}": give HOST:GUEST or ADDRESS:HOST:GUEST, and /udp`)
  const [, hostAddress, hostPort, guestPort, protocol = "tcp"] = match
  const port = {
    hostPort: Number(hostPort),
    guestPort: Number(guestPort),
    protocol: protocol as "tcp" | "udp",
    ...(hostAddress === undefined ? {} : { hostAddress }),
  }
  return [...before, port]
}

/** Collects `--ip ADDRESS/BITS` and `--ip6 ADDRESS/BITS`: the network's prefix is no guess, so it has to be given. */
export function parseGuestAddress(text: string, before: readonly string[]): string[] {
  if (!/^[0-9a-f.:]{2,45}\/\d{1,3}$/i.test(text))
    throw new CliError(
      `invalid address "${text}": give it with its prefix, as 192.0.2.2/24 or 2001:db8::2/64`,
    )
  return [...before, text]
}

/** Bytes of a packet. */
export function parseMtu(text: string): number {
  if (!/^\d{1,5}$/.test(text)) throw new CliError(`invalid --mtu "${text}": give bytes`)
  return Number(text)
}

/** Queue pairs of a network card. */
export function parseQueuePairs(text: string): number {
  if (!/^\d{1,2}$/.test(text)) throw new CliError(`invalid --network-queues "${text}": give a whole number`)
  return Number(text)
}

/** Collects `-e NAME=VALUE`; `-e NAME` takes the value from this program's own environment, as docker does. */
export function parseEnvironment(text: string, before: Record<string, string>): Record<string, string> {
  const equals = text.indexOf("=")
  if (equals === 0 || text === "") throw new CliError(`invalid --env "${text}": give NAME=VALUE`)
  if (equals > 0) return { ...before, [text.slice(0, equals)]: text.slice(equals + 1) }
  const inherited = process.env[text]
  return inherited === undefined ? before : { ...before, [text]: inherited }
}

/** Collects an option that may be given several times. */
export function collect(text: string, before: readonly string[]): readonly string[] {
  return [...before, text]
}

/** `UID:GID`, or one number for both. */
export function parseOwner(text: string): { uid: number; gid: number } {
  const match = /^(\d{1,10})(?::(\d{1,10}))?$/.exec(text)
  const [uid, gid] = [Number(match?.[1]), Number(match?.[2] ?? match?.[1])]
  if (!match || uid >= 2 ** 32 || gid >= 2 ** 32)
    throw new CliError(`invalid --owner "${text}": give UID:GID in numbers`)
  return { uid, gid }
}

/** Seconds since 1970. */
export function parseTime(text: string): number {
  if (!/^\d{1,12}$/.test(text)) throw new CliError(`invalid --latest-time "${text}": give seconds since 1970`)
  return Number(text)
}
