import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { debianCodename, sourceLines } from "../setup/apt-sources.mjs"
import { query, run } from "../setup/run.mjs"
import { pack } from "./pack.mjs"

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

/** A Debian userland with python3, as a tar archive. Made as root, or by any user who has ranges in /etc/subuid. */
async function debianTar() {
  const folder = mkdtempSync(`${tmpdir()}/ts-vmm-python-`)
  const leaveOut = LEFT_OUT.map(path => `--dpkgopt=path-exclude=${path}`)
  const options = ["--variant=minbase", "--include=python3", "--quiet", ...leaveOut, ...proxyOptions()]
  try {
    const lines = sourceLines([debianCodename()]).join("\n")
    await run("mmdebstrap", [...options, debianCodename(), `${folder}/root.tar`, "-"], {
      env: { LC_ALL: "C.UTF-8" },
      input: `${lines}\n`,
    })
    return readFileSync(`${folder}/root.tar`)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Debian's minimal system with python3 in one layer. */
export async function writePythonImage(folder) {
  const config = {
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
    cmd: ["python3"],
    workingDir: "/",
  }
  await pack(folder, { layer: { tar: [await debianTar()] }, config })
}
