import { readFileSync } from "node:fs"
import { query } from "../setup/run.mjs"
import { pack } from "./pack.mjs"

/** The statically linked one of Debian's package busybox-static. */
const BUSYBOX = "/bin/busybox"

const OS_RELEASE = `NAME="ts-vmm busybox image"\nID=busybox\nPRETTY_NAME="busybox from Debian's busybox-static"\n`
const PASSWD =
  "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\nalice:x:1000:1000:alice:/home/alice:/bin/sh\n"
const GROUP = "root:x:0:\nnogroup:x:65534:\nalice:x:1000:\nstaff:x:50:alice\n"

export const BUSYBOX_CONFIG = {
  Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
  Cmd: ["sh"],
  WorkingDir: "/",
}

/** Names of the applets with their paths, such as "bin/ls". */
function applets() {
  return query(BUSYBOX, ["--list-full"])
    .trim()
    .split("\n")
    .filter(path => path !== "bin/busybox")
}

/** Entries of a root file system with busybox as every command. */
export function busyboxEntries() {
  const dirs = [
    "bin",
    "sbin",
    "usr",
    "usr/bin",
    "usr/sbin",
    "etc",
    "proc",
    "sys",
    "dev",
    "var",
    "home",
    "lib",
  ]
  return [
    ...dirs.map(name => ({ name: `${name}/`, type: "dir" })),
    { name: "root/", type: "dir", mode: 0o700 },
    { name: "tmp/", type: "dir", mode: 0o1777 },
    { name: "home/alice/", type: "dir", uid: 1000, gid: 1000 },
    { name: "bin/busybox", type: "file", mode: 0o755, data: readFileSync(BUSYBOX) },
    ...applets().map(name => ({ name, type: "symlink", link: "/bin/busybox" })),
    { name: "etc/os-release", type: "file", data: OS_RELEASE },
    { name: "etc/passwd", type: "file", data: PASSWD },
    { name: "etc/group", type: "file", data: GROUP },
  ]
}

const TYPES = { dir: "directory", file: "file", symlink: "symlink" }

/** One layer, as small as a userland gets. */
export function writeBusyboxImage(folder) {
  const files = busyboxEntries().map(({ name, type, data, link, ...rest }) => ({
    ...rest,
    path: name,
    type: TYPES[type],
    ...(data && { content: data }),
    ...(link && { target: link }),
  }))
  const { Env: env, Cmd: cmd, WorkingDir: workingDir } = BUSYBOX_CONFIG
  return pack(folder, { layer: { files }, config: { env, cmd, workingDir } })
}
