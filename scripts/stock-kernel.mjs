// node scripts/stock-kernel.mjs: fetches Debian's cloud kernel into the cache (nothing is installed) and prints where
// it is, as JSON.
import { main } from "./setup/report.mjs"
import { stockKernel } from "./setup/stock-kernel.mjs"

await main(async () => {
  process.stdout.write(`${JSON.stringify(await stockKernel())}\n`)
})
