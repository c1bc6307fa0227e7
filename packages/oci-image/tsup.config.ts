import { readFileSync } from "node:fs"
import { defineConfig } from "tsup"
import { packageBuild } from "../../tsup.preset.js"

const fzstdLicence = readFileSync(new URL("node_modules/fzstd/LICENSE", import.meta.url), "utf8")

export default [
  packageBuild(
    {
      index: "src/index.ts",
      registry: "src/registry/index.ts",
      policy: "src/policy/index.ts",
      tar: "src/tar.ts",
    },
    // The other build writes into the same folder.
    { clean: ["!layer-process.*"] },
  ),
  // One file with everything in it, and no ES module: it is all that the process may read, and starts a third faster.
  defineConfig({
    entry: { "layer-process": "src/layer/layer-process.ts" },
    format: ["cjs"],
    target: "node20",
    platform: "node",
    noExternal: [/.*/],
    splitting: false,
    sourcemap: false,
    minify: true,
    banner: { js: `/*! With fzstd:\n${fzstdLicence}*/` },
  }),
]
