#!/usr/bin/env node
// Builds the initramfs of the guest: build/initramfs.cpio. Does nothing when it is up to date.
import { readFileSync, statSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { buildAgent } from "./build-agent.mjs"
import { loadWriter, placeImage, WRITER_SOURCES } from "./initramfs-writer.mjs"

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** @returns {Promise<string>} the path of the initramfs */
export async function buildInitramfs() {
  const agent = buildAgent()
  const output = join(root, "build", "initramfs.cpio")
  const inputs = [agent, fileURLToPath(import.meta.url), ...WRITER_SOURCES]
  const built = statSync(output, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (inputs.every(path => statSync(path).mtimeMs < built)) return output
  const { writeAgentInitramfs } = await loadWriter()
  placeImage(output, writeAgentInitramfs({ agent: readFileSync(agent) }))
  return output
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(await buildInitramfs())
