import { build } from "./build.mjs"
import { ensureDebianPackages } from "./debian.mjs"
import { ensureDependencies } from "./pnpm.mjs"
import { SetupError } from "./report.mjs"
import { Stamps } from "./stamps.mjs"

const NODE_AT_LEAST = [20, 19]

function checkMachine() {
  const [major, minor] = process.versions.node.split(".").map(Number)
  if (major < NODE_AT_LEAST[0] || (major === NODE_AT_LEAST[0] && minor < NODE_AT_LEAST[1])) {
    throw new SetupError(`Node ${NODE_AT_LEAST.join(".")} or later is needed, this is ${process.version}`)
  }
  if (process.platform !== "linux") throw new SetupError(`ts-vmm runs on Linux, this is ${process.platform}`)
}

/**
 * Brings this checkout into a state in which it can be used: Debian packages, npm dependencies, build. When all is
 * up to date it only looks at file times.
 * @param {{ groups: (keyof typeof import("./debian.mjs").GROUPS)[], types?: boolean }} options groups of Debian
 *   packages that are needed; types: build the packages' declarations too
 */
export async function setUp({ groups, types = false }) {
  checkMachine()
  const stamps = new Stamps()
  await ensureDebianPackages(stamps, groups)
  await ensureDependencies(stamps)
  await build(stamps, { types })
}
