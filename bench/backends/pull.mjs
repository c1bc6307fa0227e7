// node pull.mjs NAME STORE REGISTRIES: pulls an image as a library, twice, and says what that took, as JSON: milliseconds
// of each pull without node's start, and MiB that the process grew by at most.
import { ROOT } from "../../scripts/setup/paths.mjs"

const { ImageStore } = await import(`${ROOT}/packages/oci-image/dist/index.js`)
const { loadRegistryHosts, RegistryClient } = await import(`${ROOT}/packages/oci-image/dist/registry.js`)

const [name, path, registries] = process.argv.slice(2)

async function pullMs() {
  const since = process.hrtime.bigint()
  const client = new RegistryClient({
    hosts: loadRegistryHosts(registries),
    credentials: async () => undefined,
  })
  const store = await ImageStore.open(path)
  await store.load(client.source(name), { name })
  await client[Symbol.asyncDispose]()
  return Number(process.hrtime.bigint() - since) / 1e6
}

const before = process.memoryUsage().rss
const firstMs = await pullMs()
const extraMib = (process.resourceUsage().maxRSS * 1024 - before) / 2 ** 20
process.stdout.write(JSON.stringify({ firstMs, extraMib, againMs: await pullMs() }))
