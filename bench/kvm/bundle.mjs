import { mkdirSync, symlinkSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { build } from "tsup"
import { ROOT } from "../../scripts/setup/paths.mjs"

/**
 * Builds a program of this folder as the command line is built: one minified file with everything in it, from the
 * sources. The addon is found through its package, which is linked beside it.
 * @param {string} name
 * @param {string} folder where to
 * @returns {Promise<string>} path of the program
 */
export async function bundle(name, folder) {
  await build({
    entry: { [name]: fileURLToPath(new URL(`${name}.mjs`, import.meta.url)) },
    outDir: `${folder}/${name}`,
    format: ["esm"],
    target: "node20",
    platform: "node",
    minify: true,
    noExternal: [/.*/],
    silent: true,
    config: false,
    outExtension: () => ({ js: ".mjs" }),
    esbuildOptions(options) {
      options.conditions = ["@ts-vmm/source"]
    },
  })
  const scope = `${folder}/${name}/node_modules/@ts-vmm`
  mkdirSync(scope, { recursive: true })
  symlinkSync(`${ROOT}/packages/native`, `${scope}/native`)
  return `${folder}/${name}/${name}.mjs`
}
