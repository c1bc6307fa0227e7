import { CliError } from "../../exit.js"
import { printJson } from "../../print-json.js"
import { openStore } from "../../store.js"

/** `inspect`: always JSON, as docker has it; what is not there is told at the end. */
export async function inspect(references: readonly string[]): Promise<void> {
  const store = await openStore()
  const found: object[] = []
  const errors: string[] = []
  for (const reference of references)
    await store.inspect(reference).then(
      details => found.push(details),
      (error: Error) => errors.push(error.message),
    )
  printJson(found)
  if (errors.length > 0) throw new CliError(errors.join("; "), 1)
}
