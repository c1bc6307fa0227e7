import { packageBuild } from "../../tsup.preset.js"

export default packageBuild({
  index: "src/index.ts",
  "superio/index": "src/superio/index.ts",
})
