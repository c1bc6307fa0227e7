type Output = (name: string, bytes: Buffer) => void

interface Host {
  run(
    argv: string[],
    options: { onOutput: Output },
  ): { exited: Promise<{ code: number | null; signal?: string | null }> }
  console(): string[]
}

export declare function runWatched(
  host: Host,
  argv: string[],
  options: { cwd?: string; env?: Record<string, string>; onOutput: Output },
  silenceMs?: number,
): Promise<{ code: number | null; signal?: string | null }>
