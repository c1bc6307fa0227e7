type Output = (name: string, bytes: Buffer) => void
interface Ended {
  code: number | null
  signal?: string | null
}
interface Host {
  run(argv: string[], options: { onOutput: Output }): { exited: Promise<Ended> }
  ping(): Promise<void>
  console(): string[]
}

export declare class HostStandsStill extends Error {}
export declare function runWatched(
  host: Host,
  argv: string[],
  options: { cwd?: string; env?: Record<string, string>; onOutput: Output },
  limits?: { silenceMs?: number; deafMs?: number },
): Promise<Ended>
