import { packageBuild } from "../../tsup.preset.js"

export default packageBuild({
  index: "src/index.ts",
  mmap: "src/mmap.ts",
  layout: "src/layout.ts",
})
