import { readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import type { Options } from "tsup"

type Plugin = NonNullable<Options["esbuildPlugins"]>[number]

const OCI_IMAGE = fileURLToPath(new URL("../../../packages/oci-image", import.meta.url))
const UNDICI = fileURLToPath(new URL("undici.cjs", import.meta.url))
/** Files of undici that are only for HTTP/2, which is not offered, and for a test runner. */
const UNUSED_UNDICI = /undici\/lib\/(?:dispatcher\/client-h2|llhttp\/llhttp-wasm)\.js$/

/** Leaves out of libraries what this program never comes to, since all of it would be loaded at every start. */
export const slim: Plugin = {
  name: "slim",
  setup(build) {
    build.onResolve({ filter: /^undici$/ }, () => ({ path: UNDICI }))
    build.onResolve({ filter: /^undici\// }, ({ path, kind, importer }) =>
      importer === UNDICI ? build.resolve(path, { kind, resolveDir: OCI_IMAGE }) : undefined,
    )
    build.onLoad({ filter: UNUSED_UNDICI }, () => ({ contents: "" }))
    // commander starts programs for commands that are files of their own; here none is.
    build.onLoad({ filter: /commander\/lib\/command\.js$/ }, async ({ path }) => ({
      contents: (await readFile(path, "utf8")).replace("require('node:child_process')", "{}"),
    }))
  },
}
