import { CliError } from "./exit.js"

/**
 * Does one thing to each of several sandboxes, goes on past those that fail, and prints as docker does: the
 * name of each that went well on stdout, an error for each other on stderr.
 */
export async function forEach(
  names: readonly string[],
  json: boolean | undefined,
  act: (name: string) => Promise<void>,
): Promise<void> {
  const results: { name: string; error?: string }[] = []
  for (const name of names) {
    const result = await act(name).then(
      () => ({ name }),
      (error: Error) => ({ name, error: error.message }),
    )
    results.push(result)
  }
  if (json) console.log(JSON.stringify(results))
  else
    for (const { name, error } of results)
      error === undefined ? console.log(name) : console.error(`example-runtime: ${error}`)
  const failed = results.filter(one => one.error !== undefined).length
  if (failed > 0) throw new CliError(`${failed} of ${results.length} failed`, 1)
}
