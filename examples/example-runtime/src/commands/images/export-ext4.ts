import { interruptible } from "../../interrupt.js"
import { startProgress } from "../../progress.js"
import { openStore } from "../../store.js"

interface ExportOptions {
  readonly output: string
  readonly size?: number
  readonly json?: boolean
}

/** `image export-ext4` */
export async function exportExt4(reference: string, { output, size, json }: ExportOptions): Promise<void> {
  const store = await openStore()
  const progress = startProgress(`writing ${output}`)
  const disk = await interruptible("writing the disk", signal =>
    store.exportExt4(reference, output, { signal, ...(size === undefined ? {} : { size }) }),
  ).finally(() => progress.stop())
  console.log(json ? JSON.stringify({ path: output, ...disk }) : output)
}
