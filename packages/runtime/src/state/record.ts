import { readFileSync, renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Digest } from "@ts-vmm/oci-image"
import type { HypervisorName } from "../hypervisor/hypervisor.js"

/** Life of a sandbox. `failed` = ended by something other than its program. */
export type SandboxStatus = "creating" | "running" | "stopped" | "failed"

/** What is known of a sandbox from outside its process. */
export interface SandboxRecord {
  readonly id: string
  readonly name: string
  /** As it was named when the sandbox was made; for a root file system of the host its path. */
  readonly image: string
  /** What that name stood for: the digest of a manifest. Where the root is no image there is none. */
  readonly imageDigest?: Digest
  readonly command: readonly string[]
  readonly hypervisor: HypervisorName
  readonly status: SandboxStatus
  /** Milliseconds since 1970. */
  readonly createdAt: number
  /** Process id of the owner, for people; who is alive is told by the lock. */
  readonly ownerPid: number
  /** Set once the sandbox's program ended. */
  readonly exitCode?: number
}

/** Whether a record says that its sandbox has ended. */
export function isOver(record: SandboxRecord): boolean {
  return record.status === "stopped" || record.status === "failed"
}

const RECORD_FILE = "record.json"
const MAX_RECORD_BYTES = 64 * 1024

/** Writes the record so that a reader sees the old or the new one, never half of one. */
export function writeRecord(directory: string, record: SandboxRecord): void {
  const temporary = join(directory, `${RECORD_FILE}.tmp`)
  writeFileSync(temporary, JSON.stringify(record), { mode: 0o600 })
  renameSync(temporary, join(directory, RECORD_FILE))
}

/** Reads a record; undefined for a missing, truncated or foreign one, which then counts as left over. */
export function readRecord(directory: string): SandboxRecord | undefined {
  try {
    const text = readFileSync(join(directory, RECORD_FILE), "utf8")
    return text.length > MAX_RECORD_BYTES ? undefined : parseRecord(JSON.parse(text))
  } catch {
    return undefined
  }
}

function parseRecord(value: unknown): SandboxRecord | undefined {
  if (typeof value !== "object" || value === null) return undefined
  const record = value as Partial<SandboxRecord>
  const complete =
    typeof record.id === "string" &&
    typeof record.name === "string" &&
    typeof record.image === "string" &&
    Array.isArray(record.command) &&
    typeof record.status === "string" &&
    typeof record.createdAt === "number" &&
    typeof record.ownerPid === "number"
  return complete ? (record as SandboxRecord) : undefined
}
