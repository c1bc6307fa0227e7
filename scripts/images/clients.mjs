import { debianRoot } from "./debian-root.mjs"
import { pack } from "./pack.mjs"

/** Programs that work with files and connections as people's own do. */
const PACKAGES = [
  ...["gcc", "libc6-dev", "make"],
  ...["git", "sqlite3", "python3-minimal", "libpython3-stdlib"],
  ...["tar", "xz-utils", "apt-utils"],
  ...["fio", "iperf3", "sockperf"],
]

/** Not installed: what a test installs from a mirror of its own. The first needs the others. */
const MIRRORED = ["jq", "libjq1", "libonig5", "hello"]

/** The packages of the mirror as files in /srv/mirror. */
const FILL_MIRROR = `mkdir -p "$1/srv/mirror" && cd "$1/srv/mirror" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q -o APT::Sandbox::User= download ${MIRRORED.join(" ")}`

/** Debian's minimal system with compilers, git, databases, measuring programs and a few packages to install. */
export async function writeClientsImage(folder) {
  const config = {
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
    cmd: ["sh"],
    workingDir: "/",
  }
  await pack(folder, { layer: { tar: [await debianRoot(PACKAGES, [FILL_MIRROR])] }, config })
}
