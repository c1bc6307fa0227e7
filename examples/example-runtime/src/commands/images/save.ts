import type { SaveFormat } from "@ts-vmm/oci-image"
import { CliError } from "../../exit.js"
import { interruptible } from "../../interrupt.js"
import { startProgress } from "../../progress.js"
import { openStore } from "../../store.js"

/** `save` */
export async function save(
  references: readonly string[],
  { output, format }: { output?: string; format: string },
): Promise<void> {
  if (output === undefined && process.stdout.isTTY)
    throw new CliError("refusing to write an archive to a terminal: use --output, or redirect")
  const store = await openStore()
  const progress = startProgress("saving")
  await interruptible("saving", signal =>
    store.save(references, output ?? process.stdout, { format: format as SaveFormat, signal }),
  ).finally(() => progress.stop())
}
