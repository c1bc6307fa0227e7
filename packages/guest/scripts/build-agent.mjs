#!/usr/bin/env node
// Builds the agent: agent/*.cc -> build/agent, one static executable. Does nothing when it is up to date.
import { execFileSync } from "node:child_process"
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const FLAGS = [
  ...["-std=c++17", "-Os", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-fno-rtti"],
  // Nobody attaches to what the guest's first process leaks: sections nobody needs go, relocations are fixed.
  ...[
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-asynchronous-unwind-tables",
    "-fstack-protector-strong",
  ],
  ...["-static", "-s", "-Wl,--gc-sections", "-Wl,-z,relro,-z,now,-z,noexecstack"],
]

/** @returns {string} the path of the agent, built when a source is newer */
export function buildAgent() {
  const dir = join(root, "agent")
  const files = readdirSync(dir).filter(name => /\.(cc|h)$/.test(name))
  const output = join(root, "build", "agent")
  const inputs = [...files.map(name => join(dir, name)), fileURLToPath(import.meta.url)]
  const built = statSync(output, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (inputs.every(path => statSync(path).mtimeMs < built)) return output
  mkdirSync(dirname(output), { recursive: true })
  // Built beside and moved, so that two builds at once do not show each other half a file.
  const temporary = `${output}.${process.pid}`
  const sources = files.filter(name => name.endsWith(".cc")).map(name => join(dir, name))
  try {
    execFileSync(process.env.CXX ?? "g++", [...FLAGS, "-o", temporary, ...sources], { stdio: "inherit" })
    renameSync(temporary, output)
  } finally {
    rmSync(temporary, { force: true })
  }
  return output
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(buildAgent())
