#!/usr/bin/env node
// Builds an initramfs for a kernel that has its drivers as modules, such as a distribution's:
//
//   node scripts/build-stock-initramfs.mjs --modules /lib/modules/6.1.0-50-cloud-amd64 -o initramfs.cpio
//
// --modules  the kernel's folder with modules.dep
// --module   name of one more module for the agent to load; may be repeated
// -o         where the image goes
import { readFileSync } from "node:fs"
import { parseArgs } from "node:util"
import { buildAgent } from "./build-agent.mjs"
import { loadWriter, placeImage } from "./initramfs-writer.mjs"

const { values } = parseArgs({
  options: {
    modules: { type: "string" },
    module: { type: "string", multiple: true, default: [] },
    output: { type: "string", short: "o" },
  },
})
if (!values.modules || !values.output) {
  console.error("usage: node build-stock-initramfs.mjs --modules DIR [--module NAME]... -o FILE")
  process.exit(2)
}
const { SANDBOX_MODULES, writeAgentInitramfs } = await loadWriter()
try {
  const image = writeAgentInitramfs({
    agent: readFileSync(buildAgent()),
    modulesDirectory: values.modules,
    modules: [...SANDBOX_MODULES, ...values.module],
  })
  placeImage(values.output, image)
} catch (error) {
  console.error(`error: ${error.message}`)
  process.exit(1)
}
console.log(values.output)
