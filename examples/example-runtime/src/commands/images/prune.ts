import { familiarName } from "@ts-vmm/oci-image"
import { CliError } from "../../exit.js"
import { imagesInUse } from "../../images-in-use.js"
import { confirm } from "../../prompt.js"
import { openStore } from "../../store.js"
import { size } from "../../words.js"

/** `image prune`: images without names, or with `--all` every one that no sandbox runs. */
export async function pruneImages(options: {
  all?: boolean
  force?: boolean
  json?: boolean
}): Promise<void> {
  const what = options.all ? "all images that no sandbox runs" : "all images without a name"
  if (!options.force && !(await confirm(`This will remove ${what}.`))) return
  const store = await openStore()
  const result = await store.prune({ all: options.all ?? false, inUse: imagesInUse() })
  if (!result.done)
    throw new CliError("images are being loaded or saved: nothing was removed, try again later", 1)
  if (options.json) {
    console.log(JSON.stringify(result))
    return
  }
  for (const { digest, names } of result.images) {
    for (const name of names) console.log(`Untagged: ${familiarName(name)}`)
    console.log(`Deleted: ${digest}`)
  }
  console.log(`Total reclaimed space: ${size(result.bytes)}`)
}
