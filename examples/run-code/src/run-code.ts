import { Sandbox, type SandboxOptions } from "@ts-vmm/runtime"

/** What became of a piece of code that nobody trusts. */
export interface CodeResult {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs untrusted Python in a sandbox of its own, for at most `timeoutMs`, and collects what it prints. */
export async function runPython(
  image: string,
  code: string,
  timeoutMs = 10_000,
  options: Partial<SandboxOptions> = {},
): Promise<CodeResult> {
  await using sandbox = await Sandbox.create({ image, memoryMiB: 256, ...options })
  return await sandbox.exec("python3", ["-c", code], { timeoutMs, user: "nobody" })
}
