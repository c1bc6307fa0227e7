#!/usr/bin/env node
// Regenerates src/gen from proto/ with buf and protoc-gen-es, offline.
import { execFileSync } from "node:child_process"
import { rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const bin = join(root, "node_modules", ".bin")

rmSync(join(root, "src", "gen"), { recursive: true, force: true })
// protoc-gen-es is found through PATH, as buf finds every local plugin.
execFileSync(join(bin, "buf"), ["generate"], {
  cwd: root,
  stdio: "inherit",
  env: { ...process.env, PATH: `${bin}:${process.env.PATH}` },
})
