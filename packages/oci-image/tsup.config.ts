import { packageBuild } from "../../tsup.preset.js"

export default packageBuild(
  {
    index: "src/index.ts",
    registry: "src/registry/index.ts",
    "layer-process": "src/layer/layer-process.ts",
  },
  // The process that reads layers may read this package's dist folder and nothing else.
  { noExternal: ["fzstd"] },
)
