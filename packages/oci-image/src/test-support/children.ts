import { readdirSync, readFileSync } from "node:fs"

/** Processes that a process started, that are still there, and whose command line has a text. */
export function childrenOf(parent: number, text: string): string[] {
  return readdirSync(`/proc/${parent}/task`).flatMap(thread =>
    readFileSync(`/proc/${parent}/task/${thread}/children`, "latin1")
      .split(" ")
      .filter(pid => commandOf(pid).includes(text)),
  )
}

function commandOf(pid: string): string {
  try {
    return pid === "" ? "" : readFileSync(`/proc/${pid}/cmdline`, "latin1")
  } catch {
    return "" // It has ended since.
  }
}
