import { packageBuild } from "../../tsup.preset.js"

export default packageBuild({
  index: "src/index.ts",
  artifacts: "src/artifacts.ts",
  "container-spec": "src/container-spec.ts",
})
