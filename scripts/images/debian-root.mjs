import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { debianCodename, sourceLines } from "../setup/apt-sources.mjs"
import { query, run } from "../setup/run.mjs"

/** Left out of the image: nothing in a test reads them. */
const LEFT_OUT = [
  "/usr/share/doc/*",
  "/usr/share/man/*",
  "/usr/share/locale/*",
  "/usr/share/info/*",
  "/var/cache/apt/*",
  "/var/lib/apt/lists/*",
]

/** The machine's own proxy for apt, which mmdebstrap does not take over by itself. */
function proxyOptions() {
  const line = query("apt-config", ["shell", "P", "Acquire::http::Proxy"])?.trim()
  const proxy = /^P='(.*)'$/.exec(line ?? "")?.[1]
  return proxy ? [`--aptopt=Acquire::http::Proxy "${proxy}"`] : []
}

/**
 * A Debian userland as a tar archive. Made as root, or by any user who has ranges in /etc/subuid.
 * @param {string[]} packages what it holds besides Debian's minimal system
 * @param {string[]} hooks shell commands run with the root folder as "$1" when all is installed
 * @returns {Promise<Buffer>}
 */
export async function debianRoot(packages, hooks = []) {
  const folder = mkdtempSync(`${tmpdir()}/ts-vmm-debian-`)
  const leaveOut = LEFT_OUT.map(path => `--dpkgopt=path-exclude=${path}`)
  const options = ["--variant=minbase", `--include=${packages.join(",")}`, "--quiet", ...leaveOut]
  const after = hooks.map(hook => `--customize-hook=${hook}`)
  try {
    const lines = sourceLines([debianCodename()]).join("\n")
    const output = [debianCodename(), `${folder}/root.tar`, "-"]
    await run("mmdebstrap", [...options, ...after, ...proxyOptions(), ...output], {
      env: { LC_ALL: "C.UTF-8" },
      input: `${lines}\n`,
    })
    return readFileSync(`${folder}/root.tar`)
  } finally {
    rmSync(folder, { recursive: true })
  }
}
