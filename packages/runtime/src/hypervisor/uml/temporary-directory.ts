import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** A private folder for a throw-away guest, removed when `work` is done. */
export function withTemporaryDirectory<T>(work: (directory: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), "ts-vmm-"))
  return work(directory).finally(() => rmSync(directory, { recursive: true, force: true }))
}
