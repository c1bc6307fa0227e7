// node scripts/make-image.mjs NAME…: makes local images (or finds them made) and prints the path of each.
import { localImage } from "./images/index.mjs"
import { main } from "./setup/report.mjs"

await main(async () => {
  for (const name of process.argv.slice(2)) process.stdout.write(`${await localImage(name)}\n`)
})
