import { rmSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { build } from "tsup"

const HERE = fileURLToPath(new URL(".", import.meta.url))

/** A program for a process of its own, in one file; it is gone after disposal. */
export interface Child extends Disposable {
  readonly path: string
}

/**
 * Bundles a program of this folder: a process of its own cannot read sources as tests do, and a bundle starts faster.
 *
 * @param name - file name without `.ts`
 */
export async function bundleChild(name: string): Promise<Child> {
  // Beside the packages that it may need.
  const outDir = join(HERE, `../../node_modules/.${name}-${process.pid}`)
  await build({
    ...{ entry: [join(HERE, `${name}.ts`)], outDir, format: "esm", noExternal: [/./] },
    ...{ outExtension: () => ({ js: ".mjs" }), config: false, dts: false },
    ...{ silent: true, sourcemap: false, splitting: false },
  })
  return {
    path: join(outDir, `${name}.mjs`),
    [Symbol.dispose]: () => rmSync(outDir, { recursive: true }),
  }
}
