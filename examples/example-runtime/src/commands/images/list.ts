import { familiarName, type ImageEntry } from "@ts-vmm/oci-image"
import { openStore, shortId } from "../../store.js"
import { printTable } from "../../table.js"
import { size } from "../../words.js"

/** `images` */
export async function listImages(options: { quiet?: boolean; json?: boolean }): Promise<void> {
  const entries = await (await openStore()).list()
  if (options.json) console.log(JSON.stringify(entries.map(toJson)))
  else if (options.quiet) for (const { image } of entries) console.log(shortId(image.configDigest))
  else printTable(["NAME", "IMAGE ID", "LAYERS", "SIZE"], entries.flatMap(toRows))
}

function toJson({ image, names }: ImageEntry): object {
  return {
    names,
    id: image.configDigest,
    digest: image.digest,
    layers: image.layers.length,
    size: image.size,
  }
}

/** One row a name, as docker has it; an image that was run from a folder has none. */
function toRows({ image, names }: ImageEntry): string[][] {
  const facts = [shortId(image.configDigest), String(image.layers.length), size(image.size)]
  return (names.length > 0 ? names.map(familiarName) : ["<none>"]).map(name => [name, ...facts])
}
