import type { HistoryEntry } from "@ts-vmm/oci-image"
import { escapeControls } from "@ts-vmm/runtime"
import { printJson } from "../../print-json.js"
import { openStore } from "../../store.js"
import { printTable } from "../../table.js"
import { ago, size } from "../../words.js"

const COMMAND_WIDTH = 45

/** `history` */
export async function history(reference: string, options: { trunc: boolean; json?: boolean }): Promise<void> {
  const entries = await (await openStore()).history(reference)
  if (options.json) printJson(entries)
  else
    printTable(
      ["CREATED", "CREATED BY", "SIZE", "COMMENT"],
      entries.map(entry => toRow(entry, options.trunc)),
    )
}

/** Every text in it is the image maker's. */
function toRow({ created, createdBy, comment, size: bytes }: HistoryEntry, short: boolean): string[] {
  const command = escapeControls(createdBy).replaceAll(/\s+/g, " ")
  const isLong = short && command.length > COMMAND_WIDTH
  return [
    when(created),
    isLong ? `${command.slice(0, COMMAND_WIDTH - 1)}…` : command,
    size(bytes),
    escapeControls(comment).replaceAll(/\s+/g, " "),
  ]
}

function when(created: string): string {
  const time = Date.parse(created)
  return Number.isNaN(time) ? "" : ago(time)
}
