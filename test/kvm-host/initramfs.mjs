// The KVM test host's initramfs: Debian's kernel modules and a script that makes this machine's root file system, seen
// through virtio-fs, writable with a tmpfs above it, and goes there.
import { execFileSync } from "node:child_process"
import { copyFileSync, mkdirSync, readdirSync, writeFileSync } from "node:fs"
import { basename } from "node:path"
import { ROOT } from "../../scripts/setup/paths.mjs"

const MODULES = [
  "virtio_pci",
  "virtio_console",
  "virtiofs",
  "overlay",
  "kvm-amd",
  "tun",
  "veth",
  "vhost_net",
  "vhost_vsock",
]
const BUSYBOX = "/bin/busybox"

/** Files of modules and of all that they need, in an order in which they can be loaded one by one. */
function moduleFiles({ modules, version }) {
  const root = modules.slice(0, modules.indexOf("/lib/modules/"))
  const show = name =>
    execFileSync("/sbin/modprobe", ["-C", "/dev/null", "-d", root, "-S", version, "--show-depends", name], {
      encoding: "utf8",
    })
  const lines = MODULES.flatMap(name => show(name).trim().split("\n"))
  return [...new Set(lines.filter(line => line.startsWith("insmod ")).map(line => line.split(" ")[1]))]
}

/** Its own `/tmp` must not hide a checkout that lies in this machine's. */
const OWN_TMP = ROOT.startsWith("/tmp/")
  ? `mkdir /checkout
mount --bind /new${ROOT} /checkout
mount -t tmpfs tmpfs /new/tmp
mkdir -p /new${ROOT}
mount --move /checkout /new${ROOT}`
  : "mount -t tmpfs tmpfs /new/tmp"

const initScript = (files, command) => `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
${files.map(file => `insmod /modules/${basename(file)}`).join("\n")}
mount -t virtiofs -o ro root /lower
mount -t tmpfs -o size=75% tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /new
mount --move /dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts devpts /new/dev/pts
mount -t tmpfs tmpfs /new/dev/shm
${OWN_TMP}
mount -t tmpfs tmpfs /new/run
mount --move /proc /new/proc
mount --move /sys /new/sys
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
ip link set lo up
port=$(basename $(dirname $(grep -l kvm-host /new/sys/class/virtio-ports/*/name)))
exec switch_root /new /usr/bin/env -i PATH=${process.env.PATH} HOME=/root TMPDIR=/tmp LANG=C.UTF-8 ${command} /dev/$port
`

/**
 * Writes the initramfs into `folder`.
 * @param {string} folder existing and empty
 * @param {{ version: string, modules: string }} kernel of scripts/setup/stock-kernel.mjs
 * @param {string} command what runs as the first process, in this machine's file system; the port's path follows
 * @returns {string} path of the archive
 */
export function makeHostInitramfs(folder, kernel, command) {
  const root = `${folder}/root`
  for (const name of ["bin", "proc", "sys", "dev", "lower", "upper", "new", "modules"])
    mkdirSync(`${root}/${name}`, { recursive: true })
  const files = moduleFiles(kernel)
  for (const file of files) copyFileSync(file, `${root}/modules/${basename(file)}`)
  copyFileSync(BUSYBOX, `${root}/bin/busybox`)
  writeFileSync(`${root}/init`, initScript(files, command), { mode: 0o755 })
  const names = readdirSync(root, { recursive: true }).join("\0")
  const archive = execFileSync("cpio", ["--null", "-o", "-H", "newc", "--owner=0:0", "--quiet"], {
    cwd: root,
    input: names,
    maxBuffer: 1 << 28,
  })
  writeFileSync(`${folder}/initramfs.cpio`, archive)
  return `${folder}/initramfs.cpio`
}
