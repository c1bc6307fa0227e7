import { familiarName, normalizeName } from "@ts-vmm/oci-image"
import {
  loadRegistryHosts,
  type PushResult,
  RegistryClient,
  type UploadOutcome,
} from "@ts-vmm/oci-image/registry"
import { defaultRegistriesFile } from "@ts-vmm/runtime"
import { interruptible } from "../../interrupt.js"
import { startProgress } from "../../progress.js"
import { openStore, shortId } from "../../store.js"

const OUTCOMES: Readonly<Record<UploadOutcome, string>> = {
  present: "Layer already exists",
  mounted: "Mounted from another repository",
  uploaded: "Pushed",
}

/** `push`: the image goes to the registry that its name says; a broken one leaves the name there as it was. */
export async function push(text: string, options: { quiet?: boolean; json?: boolean }): Promise<void> {
  const name = normalizeName(text)
  const result = await send(name, blob => {
    if (options.json) console.error(JSON.stringify({ event: "blob", ...blob }))
    else if (!options.quiet) console.error(`${shortId(blob.digest)}: ${OUTCOMES[blob.outcome]}`)
  })
  if (options.json) console.log(JSON.stringify({ name, ...result }))
  else if (options.quiet) console.log(familiarName(name))
  else console.log(`${familiarName(name)}: digest: ${result.digest}`)
}

async function send(
  name: string,
  onBlob: (blob: { digest: string; size: number; outcome: UploadOutcome }) => void,
): Promise<PushResult> {
  const store = await openStore()
  const progress = startProgress(`pushing ${familiarName(name)}`)
  return interruptible("the push", async signal => {
    await using client = new RegistryClient({ hosts: loadRegistryHosts(defaultRegistriesFile()) })
    return await store.withContent(name, ({ root, blobs }) =>
      client.push(root, blobs, name, {
        signal,
        onBlob: ({ digest, size }, outcome) => onBlob({ digest, size, outcome }),
      }),
    )
  }).finally(() => progress.stop())
}
