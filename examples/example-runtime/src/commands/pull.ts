import {
  familiarName,
  ImageStore,
  type LoadProgress,
  normalizeName,
  type StoredImage,
} from "@ts-vmm/oci-image"
import { loadRegistryHosts, RegistryClient } from "@ts-vmm/oci-image/registry"
import { defaultPaths, defaultRegistriesFile } from "@ts-vmm/runtime"
import { startProgress } from "../progress.js"

/** `pull`: an interrupted one leaves nothing, and the next begins with the layers that were finished. */
export async function pull(text: string, options: { quiet?: boolean; json?: boolean }): Promise<void> {
  const name = normalizeName(text)
  const store = await ImageStore.open(defaultPaths().imageDir)
  const before = await store.get(name)
  const image = await fetchImage(store, text, name)
  const isNew = before?.digest !== image.digest
  if (options.json)
    console.log(JSON.stringify({ name, digest: image.digest, id: image.configDigest, new: isNew }))
  else if (options.quiet) console.log(image.digest)
  else {
    const status = isNew ? "Downloaded newer image for" : "Image is up to date for"
    console.log(`Digest: ${image.digest}\nStatus: ${status} ${familiarName(name)}\n${name}`)
  }
}

async function fetchImage(store: ImageStore, text: string, name: string): Promise<StoredImage> {
  const abort = new AbortController()
  const stop = () => abort.abort(new InterruptedError())
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, stop)
  const progress = startProgress(`pulling ${name}`)
  try {
    await using client = new RegistryClient({ hosts: loadRegistryHosts(defaultRegistriesFile()) })
    return await store.load(client.source(text), {
      name,
      signal: abort.signal,
      onProgress: layer => progress.show(describeLayer(layer)),
    })
  } finally {
    progress.stop()
  }
}

/** Carries a code, so that it is reported as a fact and not as a bug. */
class InterruptedError extends Error {
  readonly code = "aborted"

  constructor() {
    super("the pull was interrupted")
  }
}

function describeLayer({ position, layers, done, total }: LoadProgress): string {
  return `layer ${position + 1} of ${layers}: ${Math.floor((100 * done) / Math.max(1, total))} %`
}
