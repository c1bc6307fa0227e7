import { readdirSync, statSync } from "node:fs"
import { SetupError, step } from "./report.mjs"
import { query, run } from "./run.mjs"
import { isWritable } from "./stamps.mjs"

/** Debian packages by what they are needed for. */
export const GROUPS = {
  build: ["g++", "make", "python3"],
  start: ["busybox-static"],
  test: [
    ...["qemu-system-x86", "qemu-system-common", "qemu-utils"], // vhost-user front end, storage daemon, qemu-img
    ...["erofs-utils", "e2fsprogs", "cpio", "xz-utils", "zstd"], // oracles for what we write
    ...["acpica-tools", "device-tree-compiler", "binutils"], // iasl, dtc, readelf: the same for boot tables and kernels
    ...["passt", "iperf3", "iproute2"], // the network of sandboxes, what measures it, and namespaces for its tests
    ...["containernetworking-plugins", "iptables"], // CNI plugins, and what they publish ports with
    ...["skopeo", "umoci", "podman", "buildah", "mmdebstrap", "uidmap"], // images
    ...["docker-registry", "apache2-utils", "openssl"], // a registry, its passwords and certificates
    ...["kmod", "socat", "util-linux", "procps"], // depmod for the stock kernel, sockets, setpriv, ps
  ],
  bench: ["runc", "podman", "fio", "iperf3", "sockperf", "iproute2"],
}

const DPKG_STATUS = "/var/lib/dpkg/status"
const APT_LISTS = "/var/lib/apt/lists"
/** Seconds that apt waits for another apt to finish. */
const LOCK_SECONDS = 600
const APT_ENV = { DEBIAN_FRONTEND: "noninteractive", LC_ALL: "C.UTF-8" }

/** Those of `names` that are not installed. */
export function missingPackages(names) {
  const table = query("dpkg-query", ["-W", `-f=\${Package} \${db:Status-Status}\\n`, ...names], {
    stdio: ["ignore", "pipe", "ignore"],
  })
  if (table === undefined)
    throw new SetupError("dpkg-query is missing: the set-up knows Debian 12 and its derivatives only")
  const installed = new Set(
    table
      .split("\n")
      .filter(line => line.endsWith(" installed"))
      .map(line => line.split(" ")[0]),
  )
  return names.filter(name => !installed.has(name))
}

const apt = (...args) =>
  run("apt-get", ["-q", "-o", `DPkg::Lock::Timeout=${LOCK_SECONDS}`, ...args], { env: APT_ENV })

/** Says whether package lists were ever fetched on this machine. */
export const haveLists = () =>
  readdirSync(APT_LISTS).some(name => name.endsWith("_Packages") || name.includes("_Packages."))

async function install(names) {
  const add = () => apt("install", "-y", "--no-install-recommends", ...names)
  if (!haveLists()) await apt("update")
  try {
    await add()
  } catch {
    // Most often lists so old that the mirror no longer has what they name; a second failure is told.
    await apt("update")
    await add()
  }
}

/**
 * Makes sure that the packages of the named groups are installed. Costs one stat when nothing changed since the last call.
 * @param {import("./stamps.mjs").Stamps} stamps
 * @param {(keyof typeof GROUPS)[]} groups
 * @throws SetupError with the exact command when packages are missing and this user may not install them
 */
export async function ensureDebianPackages(stamps, groups) {
  const names = [...new Set(groups.flatMap(group => GROUPS[group]))]
  const stampName = `debian:${groups.join("+")}`
  const key = () => `${names} ${statSync(DPKG_STATUS, { throwIfNoEntry: false })?.mtimeMs}`
  if (stamps.isCurrent(stampName, key())) return
  const missing = missingPackages(names)
  if (missing.length > 0) {
    if (process.getuid() !== 0) {
      throw new SetupError(
        `Debian packages are missing, run: sudo apt-get install -y --no-install-recommends ${missing.join(" ")}`,
      )
    }
    await step(`Debian packages: ${missing.join(" ")}`, () => install(missing))
  }
  if (isWritable()) stamps.set(stampName, key())
}
