import type { StoredImage } from "@ts-vmm/oci-image"
import { type ConfigChanges, parseChanges } from "../../changes.js"
import { CliError } from "../../exit.js"
import { interruptible } from "../../interrupt.js"
import { startProgress } from "../../progress.js"
import { openStore } from "../../store.js"

interface ImportOptions {
  readonly change: readonly string[]
  readonly json?: boolean
}

/** `import`: a tar file, or `-` for stdin, becomes an image of one layer. */
export async function importTar(
  file: string,
  name: string | undefined,
  options: ImportOptions,
): Promise<void> {
  if (file === "-" && process.stdin.isTTY)
    throw new CliError("refusing to read an archive from a terminal: name a file, or redirect")
  const store = await openStore()
  const source = file === "-" ? process.stdin : file
  await make(options, (config, signal) =>
    store.importTar(source, { config, signal, ...(name === undefined ? {} : { name }) }),
  )
}

interface BuildOptions extends ImportOptions {
  readonly latestTime?: number
  readonly owner?: { readonly uid: number; readonly gid: number }
}

/** `image build-rootfs`: a folder becomes an image of one layer; the same folder, the same digest. */
export async function buildRootfs(
  folder: string,
  name: string | undefined,
  options: BuildOptions,
): Promise<void> {
  const store = await openStore()
  const { latestTime, owner } = options
  await make(options, (config, signal) =>
    store.buildRootfs(folder, {
      config,
      signal,
      ...(name === undefined ? {} : { name }),
      ...(latestTime === undefined ? {} : { latestTime }),
      ...(owner === undefined ? {} : { owner }),
    }),
  )
}

async function make(
  { change, json }: ImportOptions,
  work: (config: ConfigChanges, signal: AbortSignal) => Promise<StoredImage>,
): Promise<void> {
  const config = parseChanges(change)
  const progress = startProgress("making the image")
  const image = await interruptible("making the image", signal => work(config, signal)).finally(() =>
    progress.stop(),
  )
  console.log(json ? JSON.stringify({ id: image.configDigest, digest: image.digest }) : image.configDigest)
}
