import { familiarName, type ImageStore, isSameName, type RemovedImage } from "@ts-vmm/oci-image"
import { CliError } from "../../exit.js"
import { imagesInUse } from "../../images-in-use.js"
import { openStore } from "../../store.js"

interface Removal {
  readonly reference: string
  readonly removed?: RemovedImage
  readonly error?: string
}

/** `rmi`: goes on past those that fail, as docker does. */
export async function removeImages(
  references: readonly string[],
  options: { force?: boolean; json?: boolean },
): Promise<void> {
  const store = await openStore()
  const results: Removal[] = []
  for (const reference of references) {
    const result = await removeOne(store, reference, options.force ?? false).then(
      removed => ({ reference, removed }),
      (error: Error) => ({ reference, error: error.message }),
    )
    results.push(result)
  }
  if (options.json) console.log(JSON.stringify(results))
  else for (const result of results) print(result)
  const failed = results.filter(({ error }) => error !== undefined).length
  if (failed > 0) throw new CliError(`${failed} of ${results.length} failed`, 1)
}

async function removeOne(store: ImageStore, reference: string, force: boolean): Promise<RemovedImage> {
  if (!force) await refuseWanted(store, reference)
  return store.remove(reference)
}

/** Without `--force` an image stays that a sandbox runs, or that several names mean while its id was given. */
async function refuseWanted(store: ImageStore, reference: string): Promise<void> {
  const image = await store.get(reference)
  if (!image) return // the store says it better
  const names = (await store.list()).find(entry => entry.image.digest === image.digest)?.names ?? []
  const isLast = names.length <= 1
  if (isLast && imagesInUse().has(image.digest))
    throw new CliError(`image ${reference} is used by a running sandbox: end that first, or use --force`)
  const isId = !names.some(name => isSameName(name, reference))
  if (isId && !isLast)
    throw new CliError(`image ${reference} has several names: remove those, or use --force`)
}

function print({ removed, error }: Removal): void {
  if (error !== undefined) console.error(`example-runtime: ${error}`)
  if (!removed) return
  for (const name of removed.names) console.log(`Untagged: ${familiarName(name)}`)
  if (removed.deleted) console.log(`Deleted: ${removed.digest}`)
}
