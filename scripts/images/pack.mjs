import { ROOT } from "../setup/paths.mjs"

/**
 * Writes an image with the packer that `example-runtime image build-rootfs` and `import` have.
 * @param {string} folder
 * @param {{ layer: object, config: object }} image the layer and config that `packImage` takes
 */
export async function pack(folder, { layer, config }) {
  const { packImage } = await import(`${ROOT}/packages/oci-image/dist/index.js`)
  await packImage(folder, { layers: [layer], config, compression: "gzip" })
}
