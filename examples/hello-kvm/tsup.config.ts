import { packageBuild } from "../../tsup.preset.js"

export default packageBuild({
  main: "src/main.ts",
})
