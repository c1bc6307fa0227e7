import { readdirSync } from "node:fs"
import { withLock } from "./lock.mjs"
import { run } from "./run.mjs"
import { exists } from "./stamps.mjs"
import { unpackedPackage } from "./unpacked-package.mjs"

/**
 * Debian's own kernel for clouds, unpacked into the cache, with the table of what each module needs.
 * @returns {Promise<{ version: string, image: string, modules: string }>} image: the bzImage; modules: the folder
 *   that holds modules.dep
 */
export async function stockKernel() {
  const root = await unpackedPackage({ name: "linux-image-cloud-amd64", meta: true })
  const [version] = readdirSync(`${root}/lib/modules`)
  const modules = `${root}/lib/modules/${version}`
  await withLock("depmod", async () => {
    if (!exists(`${modules}/modules.dep`)) await run("/sbin/depmod", ["-b", root, version])
  })
  return { version, image: `${root}/boot/vmlinuz-${version}`, modules }
}
