import { defineConfig, type Options } from "tsup"

/** One build recipe for every package: ESM for Node 20, with types and source maps. */
export function packageBuild(entry: Record<string, string>, extra: Options = {}) {
  return defineConfig({
    entry,
    format: ["esm"],
    dts: true,
    sourcemap: true,
    target: "node20",
    platform: "node",
    clean: true,
    // Shared chunks, so that a class exported by two entries is one class.
    splitting: true,
    // Sources only: declarations of other packages that were built before would make their imports look foreign.
    tsconfig: "../../tsconfig.build.json",
    // Puts constants of other modules in place: a bundle's top-level names cost a load and a check at each use.
    esbuildOptions(options) {
      options.minifySyntax = true
    },
    ...extra,
  })
}
