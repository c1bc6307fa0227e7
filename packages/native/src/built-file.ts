import { createRequire } from "node:module"
import { dirname, join } from "node:path"

/**
 * Path of a file that `npm run build` compiles. The package is asked for by name, so that a program that bundles
 * this package still finds what was compiled for it.
 */
export function builtFile(name: string): string {
  const root = dirname(createRequire(import.meta.url).resolve("@ts-vmm/native/package.json"))
  return join(root, "build", "Release", name)
}
