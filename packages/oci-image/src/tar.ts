/**
 * Tar streams: read, written and brought into one form, by the rules that layers of images are held to.
 *
 * @packageDocumentation
 */

export { gather } from "./chunks.js"
export {
  type TarEntry,
  type TarEntryType,
  type TarHandler,
  TarReader,
  type TarReaderOptions,
} from "./layer/tar-reader.js"
export { type PackItem, tarStream } from "./pack/items.js"
export { rewriteTar } from "./pack/rewrite-tar.js"
export { walkTree } from "./pack/walk.js"
