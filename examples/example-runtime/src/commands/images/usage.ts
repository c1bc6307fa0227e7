import { type DiskUsage, familiarName, type ImageUsage } from "@ts-vmm/oci-image"
import { imagesInUse } from "../../images-in-use.js"
import { openStore, shortId } from "../../store.js"
import { printTable } from "../../table.js"
import { size } from "../../words.js"

/** `system df` */
export async function usage(options: { verbose?: boolean; json?: boolean }): Promise<void> {
  const store = await openStore()
  const used = await store.diskUsage(imagesInUse())
  if (options.json) console.log(JSON.stringify(used))
  else if (options.verbose)
    printTable(["NAME", "DIGEST", "SIZE", "SHARED", "IN USE"], used.images.flatMap(toRows))
  else printTable(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], summary(used))
}

/** The sizes add up to what the store's folder takes. */
function summary({ images, metadata, parts, blobs, temporary, other, reclaimable }: DiskUsage): string[][] {
  const active = images.filter(({ inUse }) => inUse).length
  const total = metadata.bytes + parts.bytes + blobs.bytes + temporary + other
  return [
    ["Images", `${images.length}`, `${active}`, size(total), size(reclaimable)],
    ["  layers to run from", `${parts.count}`, "", size(parts.bytes), ""],
    ["  content as it came", `${blobs.count}`, "", size(blobs.bytes), ""],
    ["  trees", `${metadata.count}`, "", size(metadata.bytes), ""],
    ["  at work, left over", "", "", size(temporary), ""],
    ["  names", "", "", size(other), ""],
  ]
}

function toRows({ digest, names, size: bytes, shared, inUse }: ImageUsage): string[][] {
  const facts = [shortId(digest), size(bytes), size(shared), inUse ? "yes" : "no"]
  return (names.length > 0 ? names.map(familiarName) : ["<none>"]).map(name => [name, ...facts])
}
