import { debianRoot } from "./debian-root.mjs"
import { pack } from "./pack.mjs"

/** Debian's minimal system with python3 in one layer. */
export async function writePythonImage(folder) {
  const config = {
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
    cmd: ["python3"],
    workingDir: "/",
  }
  await pack(folder, { layer: { tar: [await debianRoot(["python3"])] }, config })
}
