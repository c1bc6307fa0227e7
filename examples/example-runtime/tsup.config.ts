import { defineConfig } from "tsup"

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
  esbuildOptions(options) {
    options.conditions = ["@ts-vmm/source"]
  },
  banner: {
    js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
  },
})
