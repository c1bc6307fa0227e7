// The writer of initramfs images is one of this package's sources, and is used before anything is built.
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const MODULES = ["errors", "initramfs", "kernel-modules", "agent-initramfs"]
const sourceOf = name => join(root, "src", `${name}.ts`)

/** Files that an image depends on beside what goes into it. */
export const WRITER_SOURCES = MODULES.map(sourceOf)

/** @returns {Promise<typeof import("../src/agent-initramfs.js")>} */
export async function loadWriter() {
  const { default: ts } = await import("typescript")
  const dir = join(root, "build", `writer.${process.pid}`)
  mkdirSync(dir, { recursive: true })
  try {
    for (const name of MODULES) {
      const source = readFileSync(sourceOf(name), "utf8")
      const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext }
      writeFileSync(join(dir, `${name}.js`), ts.transpileModule(source, { compilerOptions }).outputText)
    }
    return await import(pathToFileURL(join(dir, "agent-initramfs.js")).href)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** Written beside and moved, so that nobody boots from half an image. */
export function placeImage(output, image) {
  const temporary = `${output}.${process.pid}`
  try {
    writeFileSync(temporary, image)
    renameSync(temporary, output)
  } finally {
    rmSync(temporary, { force: true })
  }
}
