// node dist/main.js IMAGE < program.py
import { text } from "node:stream/consumers"
import { runPython } from "./run-code.js"

const image = process.argv[2]
if (image === undefined) {
  console.error("usage: run-code IMAGE < PROGRAM")
  process.exit(2)
}
const result = await runPython(image, await text(process.stdin))
process.stdout.write(result.stdout)
process.stderr.write(result.stderr)
process.exitCode = result.exitCode
