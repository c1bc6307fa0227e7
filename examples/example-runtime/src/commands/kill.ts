import { signalSandbox } from "@ts-vmm/runtime"
import { forEach } from "../each.js"

/** `kill` */
export function kill(names: string[], options: { signal: string; json?: boolean }): Promise<void> {
  return forEach(names, options.json, name => signalSandbox(name, options.signal))
}
