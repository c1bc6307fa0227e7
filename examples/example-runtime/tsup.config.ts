import { defineConfig } from "tsup"
import { directImports } from "./bundle/direct-imports.js"
import { slim } from "./bundle/slim.js"

/**
 * One small file a command, so that `run` loads only what it needs. Everything is bundled, from the sources;
 * compiled files are found by their package's name.
 */
export default defineConfig({
  entry: { main: "src/main.ts" },
  format: ["esm"],
  target: "node20",
  platform: "node",
  clean: true,
  splitting: true,
  sourcemap: false,
  minify: true,
  noExternal: [/.*/],
  esbuildPlugins: [directImports, slim],
  esbuildOptions(options) {
    options.conditions = ["@ts-vmm/source"]
  },
  banner: {
    js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
  },
})
