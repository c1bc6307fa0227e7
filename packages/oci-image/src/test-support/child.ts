import { copyFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { build, type Options } from "tsup"

type Plugin = NonNullable<Options["esbuildPlugins"]>[number]

const HERE = fileURLToPath(new URL(".", import.meta.url))

/** The script that reads layers, as it is built. */
const LAYER_PROCESS = join(HERE, "../../dist/layer-process.cjs")

/** A program for a process of its own, in one file; it is gone after disposal. */
export interface Child extends Disposable {
  readonly path: string
}

const READ_HERE: Plugin = {
  name: "read-here",
  setup: build =>
    build.onResolve({ filter: /\/(?:read-layer-apart|layer-series)\.js$/ }, () => ({
      path: join(HERE, "read-layer-here.ts"),
    })),
}

/**
 * Bundles a program of this folder: a process of its own cannot read sources as tests do, and a bundle starts faster.
 *
 * @param name - file name without `.ts`
 * @param readsHere - whether it reads layers itself, and not by further processes
 */
export async function bundleChild(name: string, readsHere = false): Promise<Child> {
  // Beside the packages that it may need.
  const outDir = join(HERE, `../../node_modules/.${name}-${process.pid}`)
  await build({
    ...{ entry: [join(HERE, `${name}.ts`)], outDir, format: "esm", noExternal: [/./] },
    ...{ outExtension: () => ({ js: ".mjs" }), config: false, dts: false },
    ...{ silent: true, sourcemap: false, splitting: false },
    esbuildPlugins: readsHere ? [READ_HERE] : [],
  })
  // Where a bundle looks for it first.
  copyFileSync(LAYER_PROCESS, join(outDir, "layer-process.cjs"))
  return {
    path: join(outDir, `${name}.mjs`),
    [Symbol.dispose]: () => rmSync(outDir, { recursive: true }),
  }
}
