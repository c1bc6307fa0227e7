import { createHash } from "node:crypto"
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { withLock } from "../setup/lock.mjs"
import { CACHE } from "../setup/paths.mjs"
import { SetupError, step } from "../setup/report.mjs"
import { exists, makeCache } from "../setup/stamps.mjs"

const HERE = fileURLToPath(new URL(".", import.meta.url))

/** Where each image comes from; loaded when it is made. Each writes a layout to a folder that is not there. */
const RECIPES = {
  busybox: async folder => (await import("./busybox.mjs")).writeBusyboxImage(folder),
  clients: async folder => (await import("./clients.mjs")).writeClientsImage(folder),
  layered: async folder => (await import("./layered.mjs")).writeLayeredImage(folder),
  python: async folder => (await import("./python.mjs")).writePythonImage(folder),
}

/** Names of the images that can be made. */
export const IMAGES = Object.keys(RECIPES)

/** Changes with the text of the recipes: an image made by another recipe is not used. */
function recipeKey(name) {
  const used = ["tar.mjs", "oci-layout.mjs", "pack.mjs", "debian-root.mjs", "busybox.mjs", `${name}.mjs`]
  const hash = createHash("sha256")
  for (const file of readdirSync(HERE).filter(file => used.includes(file)))
    hash.update(readFileSync(`${HERE}/${file}`))
  return hash.digest("hex").slice(0, 12)
}

/**
 * A local OCI image for trying out and for tests, made when the cache does not have it.
 * @param {string} name one of IMAGES
 * @returns {Promise<string>} path of an OCI image layout folder with one image
 */
export async function localImage(name) {
  if (!IMAGES.includes(name))
    throw new SetupError(`there is no image ${name}: it is one of ${IMAGES.join(", ")}`)
  const folder = `${CACHE}/images/${name}-${recipeKey(name)}`
  if (exists(folder)) return folder
  makeCache(`${CACHE}/images`)
  await withLock(`image-${name}`, async () => {
    if (exists(folder)) return
    await step(`image ${name}`, () => appearWhole(folder, RECIPES[name]))
  })
  return folder
}

/** What is written appears under its name when it is whole, or not at all. */
async function appearWhole(folder, write) {
  const fresh = mkdtempSync(`${folder}.`)
  try {
    await write(`${fresh}/layout`)
    renameSync(`${fresh}/layout`, folder)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}
