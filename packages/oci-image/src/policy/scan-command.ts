/** A program that looks into an image before its first use. */
export interface ScanCommand {
  /** Absolute path of the program; nothing is searched for. */
  readonly command: string
  readonly args: readonly string[]
  /** It is killed after this. */
  readonly timeoutMs: number
  /** All of its environment, besides `TS_VMM_IMAGE` and `TS_VMM_DIGEST`. */
  readonly env: Readonly<Record<string, string>>
}

/** For programs that say nothing else: time for a large image. */
export const DEFAULT_SCAN_TIMEOUT_MS = 10 * 60_000
/** A day: longer is a mistake. */
export const SCAN_TIMEOUT_MAX_MS = 24 * 60 * 60_000
