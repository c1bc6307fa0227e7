import { Sandbox, type SandboxRecord } from "@ts-vmm/runtime"
import { printTable } from "../table.js"
import { ago } from "../words.js"

/** `ps` */
export function ps(options: { all?: boolean; quiet?: boolean; json?: boolean }): void {
  const records = Sandbox.list().filter(
    one => options.all || one.status === "running" || one.status === "creating",
  )
  if (options.json) console.log(JSON.stringify(records))
  else if (options.quiet) for (const { id } of records) console.log(id)
  else printTable(["SANDBOX ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME"], records.map(toRow))
}

function toRow(record: SandboxRecord): string[] {
  const command = JSON.stringify(record.command.join(" "))
  const status = record.exitCode === undefined ? record.status : `${record.status} (${record.exitCode})`
  return [
    record.id,
    record.image,
    command.length > 24 ? `${command.slice(0, 22)}…"` : command,
    ago(record.createdAt),
    status,
    record.name,
  ]
}
