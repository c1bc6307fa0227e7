import { Sandbox } from "@ts-vmm/runtime"

/** `prune` */
export function prune(options: { json?: boolean }): void {
  const removed = Sandbox.prune({ finished: true })
  if (options.json) console.log(JSON.stringify(removed))
  else for (const id of removed) console.log(id)
}
