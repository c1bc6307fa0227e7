// npm run build: everything, with the packages' declarations.
import { setUp } from "./setup/index.mjs"
import { main } from "./setup/report.mjs"

await main(() => setUp({ groups: ["build"], types: true }))
