import { Sandbox } from "@ts-vmm/runtime"
import { reportError } from "../exit.js"

/** `prune` */
export async function prune(options: { json?: boolean }): Promise<void> {
  const onFailure = (error: Error) => {
    process.exitCode = reportError(error)
  }
  const removed = await Sandbox.prune({ finished: true, onFailure })
  if (options.json) console.log(JSON.stringify(removed))
  else for (const id of removed) console.log(id)
}
