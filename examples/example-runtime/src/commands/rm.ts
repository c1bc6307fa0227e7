import { removeSandbox } from "@ts-vmm/runtime"
import { forEach } from "../each.js"

/** `rm` */
export function rm(names: string[], options: { force?: boolean; json?: boolean }): Promise<void> {
  return forEach(names, options.json, name => removeSandbox(name, { force: options.force ?? false }))
}
