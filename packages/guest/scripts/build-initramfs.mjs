#!/usr/bin/env node
// Builds the initramfs of the guest: build/initramfs.cpio. Does nothing when it is up to date.
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { buildAgent } from "./build-agent.mjs"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const WRITER = ["errors", "initramfs"]

/** The writer is one of this package's sources; it is used before anything is built. */
async function loadWriter() {
  const { default: ts } = await import("typescript")
  const dir = join(root, "build", `writer.${process.pid}`)
  mkdirSync(dir, { recursive: true })
  try {
    for (const name of WRITER) {
      const source = readFileSync(join(root, "src", `${name}.ts`), "utf8")
      const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext }
      writeFileSync(join(dir, `${name}.js`), ts.transpileModule(source, { compilerOptions }).outputText)
    }
    return await import(pathToFileURL(join(dir, "initramfs.js")).href)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** @returns {Promise<string>} the path of the initramfs */
export async function buildInitramfs() {
  const agent = buildAgent()
  const output = join(root, "build", "initramfs.cpio")
  const inputs = [agent, fileURLToPath(import.meta.url), join(root, "src", "initramfs.ts")]
  const built = statSync(output, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (inputs.every(path => statSync(path).mtimeMs < built)) return output
  const { writeInitramfs } = await loadWriter()
  const image = writeInitramfs([
    { type: "directory", path: "dev", mode: 0o755 },
    // The kernel opens the console for the first process, before that can mount anything.
    { type: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
    { type: "character-device", path: "dev/null", mode: 0o666, major: 1, minor: 3 },
    { type: "file", path: "init", mode: 0o755, data: readFileSync(agent) },
  ])
  const temporary = `${output}.${process.pid}`
  writeFileSync(temporary, image)
  renameSync(temporary, output)
  return output
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(await buildInitramfs())
