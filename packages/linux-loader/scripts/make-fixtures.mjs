// Makes the binary fixtures in test/fixtures from the sources beside them, each with the tool that defines its
// format. Needs Debian's acpica-tools, binutils and device-tree-compiler.
import { execFileSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const FIXTURES = fileURLToPath(new URL("../test/fixtures/", import.meta.url))
const source = name => join(FIXTURES, name)
const run = (tool, ...args) => execFileSync(tool, args, { stdio: ["ignore", "ignore", "inherit"] })

/** Each fixture, and how its tool makes it. */
const RECIPES = {
  // -oa: names stay as they are written.
  "machine.aml": out => run("iasl", "-oa", "-p", out, source("machine.asl")),
  "tree.dtb": out => run("dtc", "-I", "dts", "-O", "dtb", "-o", out, source("tree.dts")),
  "pvh.elf": out => {
    const folder = mkdtempSync(join(tmpdir(), "fixtures-"))
    const object = join(folder, "pvh.o")
    try {
      run("as", "--64", "-o", object, source("pvh.s"))
      run("ld", "-n", "-s", "--build-id=none", "-T", source("pvh.ld"), "-o", out, object)
    } finally {
      rmSync(folder, { recursive: true })
    }
  },
}

for (const [name, make] of Object.entries(RECIPES)) {
  make(source(name))
  console.log(`made ${name}`)
}
