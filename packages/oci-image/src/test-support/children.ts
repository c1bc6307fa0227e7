import { readdirSync, readFileSync } from "node:fs"

/** Processes that a process started, that are still there, and whose command line has a text. */
export function childrenOf(parent: number, text: string): string[] {
  return readdirSync(`/proc/${parent}/task`).flatMap(thread =>
    read(`/proc/${parent}/task/${thread}/children`)
      .split(" ")
      .filter(pid => pid !== "" && read(`/proc/${pid}/cmdline`).includes(text)),
  )
}

/** Of a thread or a process that has ended since: nothing. */
function read(path: string): string {
  try {
    return readFileSync(path, "latin1")
  } catch {
    return ""
  }
}
