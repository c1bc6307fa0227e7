import { familiarName, type LoadProgress, normalizeName } from "@ts-vmm/oci-image"
import { loadRegistryHosts, RegistryClient } from "@ts-vmm/oci-image/registry"
import { defaultPaths, defaultRegistriesFile, openTrustGate } from "@ts-vmm/runtime"
import { interruptible } from "../../interrupt.js"
import { startLayerReport } from "../../layer-report.js"
import { openStore } from "../../store.js"

interface PullOptions {
  readonly quiet?: boolean
  readonly json?: boolean
  readonly keepIndex?: boolean
}

/** `pull`: an interrupted one leaves nothing, and the next begins with the layers that were finished. */
export async function pull(text: string, options: PullOptions): Promise<void> {
  const name = normalizeName(text)
  const store = await openStore()
  const before = await store.get(name)
  const report = await startLayerReport(options)
  const image = await interruptible("the pull", async signal => {
    await using client = new RegistryClient({
      hosts: loadRegistryHosts(defaultRegistriesFile()),
      onWarning: warning => report.warn(warning),
    })
    const load = { name, signal, onProgress: (layer: LoadProgress) => report.show(layer) }
    const gate = await openTrustGate(defaultPaths().imageDir)
    if (!gate) return await store.load(client.source(text), load)
    const { registrySignatures } = await import("@ts-vmm/oci-image/policy")
    const signatures = registrySignatures(client, text)
    return await gate.load(store, { ...load, source: client.source(text), reference: text, signatures })
  }).finally(() => report.stop())
  if (options.keepIndex) await store.keepLazyIndex(name)
  const isNew = before?.digest !== image.digest
  if (options.json)
    console.log(JSON.stringify({ name, digest: image.digest, id: image.configDigest, new: isNew }))
  else if (options.quiet) console.log(image.digest)
  else {
    const status = isNew ? "Downloaded newer image for" : "Image is up to date for"
    console.log(`Digest: ${image.digest}\nStatus: ${status} ${familiarName(name)}\n${name}`)
  }
}
