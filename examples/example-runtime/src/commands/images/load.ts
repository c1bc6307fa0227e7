import { createWriteStream, fstatSync } from "node:fs"
import { mkdtemp, open, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pipeline } from "node:stream/promises"
import { familiarName, type ImageEntry } from "@ts-vmm/oci-image"
import { CliError } from "../../exit.js"
import { interruptible } from "../../interrupt.js"
import { startLayerReport } from "../../layer-report.js"
import { openStore } from "../../store.js"

/** `load`: every image of an archive, under the names that it has there. */
export async function load(options: { input?: string; quiet?: boolean; json?: boolean }): Promise<void> {
  const entries = await interruptible("loading", async signal =>
    options.input === undefined ? loadStdin(options, signal) : loadFile(options.input, options, signal),
  )
  if (options.json) console.log(JSON.stringify(entries.map(toJson)))
  else for (const line of entries.flatMap(toLines)) console.log(line)
}

async function loadFile(
  path: string,
  options: { quiet?: boolean; json?: boolean },
  signal: AbortSignal,
): Promise<ImageEntry[]> {
  const store = await openStore()
  const report = await startLayerReport(options)
  return store
    .loadArchive(path, { names: "take", signal, onProgress: layer => report.show(layer) })
    .finally(() => report.stop())
}

/** An archive is not read from front to back. What comes through a pipe is kept in a file without a name meanwhile. */
async function loadStdin(
  options: { quiet?: boolean; json?: boolean },
  signal: AbortSignal,
): Promise<ImageEntry[]> {
  if (process.stdin.isTTY) throw new CliError("refusing to read an archive from a terminal: use --input")
  if (fstatSync(0).isFile()) return loadFile("/proc/self/fd/0", options, signal)
  const folder = await mkdtemp(join(tmpdir(), "example-runtime-load-"))
  const path = join(folder, "archive")
  await using file = await open(path, "wx+", 0o600).finally(() => rm(folder, { recursive: true }))
  const target = createWriteStream("", { fd: file.fd, autoClose: false })
  await pipeline(process.stdin, target, { signal })
  return await loadFile(`/proc/self/fd/${file.fd}`, options, signal)
}

function toJson({ image, names }: ImageEntry): object {
  return { names, id: image.configDigest, digest: image.digest }
}

function toLines({ image, names }: ImageEntry): string[] {
  if (names.length === 0) return [`Loaded image ID: ${image.configDigest}`]
  return names.map(name => `Loaded image: ${familiarName(name)}`)
}
