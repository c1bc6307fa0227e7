import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { build } from "tsup"

/** A program made from sources, for tests that need a process of their own to kill. */
export interface Bundle extends Disposable {
  /** Path of the one file, for `node`. */
  readonly program: string
}

/** Bundles `entry` with all it imports into a temporary folder; needs no build of the packages. */
export async function bundle(entry: URL): Promise<Bundle> {
  const folder = mkdtempSync(join(tmpdir(), "bundle-"))
  await build({
    entry: { program: fileURLToPath(entry) },
    outDir: join(folder, "dist"),
    format: ["esm"],
    target: "node20",
    noExternal: [/.*/],
    silent: true,
    config: false,
    esbuildOptions(options) {
      options.conditions = ["@ts-vmm/source"]
    },
  })
  // The addon and the script of threads are not part of the bundle; they are found through their packages.
  const scope = join(folder, "node_modules", "@ts-vmm")
  mkdirSync(scope, { recursive: true })
  for (const name of ["native", "virtio-devices"])
    symlinkSync(fileURLToPath(new URL(`../../${name}`, import.meta.url)), join(scope, name))
  return {
    program: join(folder, "dist", "program.js"),
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  }
}
