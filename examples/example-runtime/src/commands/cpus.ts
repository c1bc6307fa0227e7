import { sandboxCpus } from "@ts-vmm/runtime"
import { printTable } from "../table.js"

/** `cpus` */
export async function cpus(sandbox: string, options: { online?: number; json?: boolean }): Promise<void> {
  const report = await sandboxCpus(sandbox, options.online === undefined ? {} : { online: options.online })
  if (options.json) console.log(JSON.stringify(report))
  else printTable(["ONLINE", "MAX"], [[String(report.online), String(report.max)]])
}
