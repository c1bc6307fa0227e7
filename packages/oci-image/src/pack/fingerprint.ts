import { createHash } from "node:crypto"
import { type Digest, finishDigest } from "../digest.js"
import { encodeTarHeader } from "./tar-writer.js"
import { walkFolder } from "./walk.js"

/** A change this shortly before a look may be followed by another one with the same time stamp. */
const CLOCK_STEP_NS = 1_000_000_000n

/** What a folder looked like, without its files' content. */
export interface FolderFingerprint {
  readonly digest: Digest
  /** Whether nothing changed so recently that a further change could go unnoticed. */
  readonly settled: boolean
}

/**
 * Fingerprints a folder by names, owners, modes, times, inode numbers and change times: equal fingerprints of a
 * settled folder mean equal content, since no program can set a change time.
 *
 * @throws ImageError what {@link walkFolder} throws
 */
export async function fingerprintFolder(path: string): Promise<FolderFingerprint> {
  const hash = createHash("sha256")
  const now = BigInt(Date.now()) * 1_000_000n
  let newest = 0n
  for await (const { header, stamp } of walkFolder(path)) {
    hash.update(encodeTarHeader(header))
    hash.update(`${stamp?.inode}:${stamp?.changed}\n`)
    if (stamp && stamp.changed > newest) newest = stamp.changed
  }
  return { digest: finishDigest(hash), settled: newest < now - CLOCK_STEP_NS }
}
