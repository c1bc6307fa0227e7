import { packageBuild } from "../../tsup.preset.js"

export default packageBuild({
  index: "src/index.ts",
  arm64: "src/arm64.ts",
})
