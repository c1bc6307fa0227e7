// iperf3 into a guest of QEMU behind passt: QEMU with our vhost-user-net back end, beside the same QEMU with its own network
// card and `-netdev stream`. The same kernel (Debian's cloud kernel), initramfs, device properties and passt for both. The
// guest's processor is emulated, which is most of what is measured; both sides have that.
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs"
import { basename } from "node:path"
import { fileURLToPath } from "node:url"
import { stockKernel } from "../../scripts/setup/stock-kernel.mjs"
import { goals, Skip } from "../harness.mjs"
import {
  copyIperf3,
  IPERF3_PORT,
  IPERF3_WORKLOADS,
  measureIperf3,
  startChild,
  untilIperf3,
} from "../iperf3.mjs"
import { FAR_END, GUEST, inside, makeNamespaces, NEAR_END } from "../namespaces.mjs"
import { GATEWAY, PASST_MTU, passtFolder, startPasst } from "../passt.mjs"
import { output, startServer, versionOf, which } from "../process.mjs"

const QEMU = "qemu-system-x86_64"
const SERVER = fileURLToPath(new URL("../backends/serve-net.mjs", import.meta.url))
const LOOPBACK = "127.0.0.1"
const BUSYBOX = "/bin/busybox"
const START_LIMIT_MS = 120_000
const MEMORY = "256M"
/** Without MSI-X: QEMU 7.2 without KVM ends when a guest unmasks a vector of a card behind vhost-user. */
const CARD = "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:51,vectors=0,romfile="

const init = modules => `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
${modules.map(name => `insmod /modules/${name}`).join("\n")}
ip addr add ${GUEST}/24 dev eth0
ip link set eth0 mtu ${PASST_MTU} up
ip link set lo up
ip route add default via ${GATEWAY}
iperf3 -s -p ${IPERF3_PORT}
`

/** An initramfs with busybox, iperf3, and the modules of the card. */
async function makeInitramfs(folder, kernel, iperf3) {
  const { kernelModuleFiles } = await import("../../packages/guest/dist/index.js")
  const root = `${folder}/initramfs`
  copyIperf3(root, iperf3)
  const files = kernelModuleFiles(kernel.modules, ["virtio_pci", "virtio_net"])
  for (const name of ["bin", "proc", "sys", "dev", "tmp", "modules"])
    mkdirSync(`${root}/${name}`, { recursive: true })
  for (const file of files) copyFileSync(file, `${root}/modules/${basename(file)}`)
  copyFileSync(BUSYBOX, `${root}/bin/busybox`)
  writeFileSync(`${root}/init`, init(files.map(file => basename(file))), { mode: 0o755 })
  const archive = `${folder}/initramfs.cpio`
  const pack = `find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet > ${archive}`
  await output(["sh", "-c", pack], { cwd: root })
  return archive
}

const machine = (kernel, initramfs) => [
  ...[QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "null"],
  ...["-accel", "tcg", "-cpu", "max", "-m", MEMORY, "-machine", "q35,memory-backend=ram"],
  ...["-object", `memory-backend-memfd,id=ram,size=${MEMORY},share=on`],
  ...["-kernel", kernel.image, "-initrd", initramfs],
  ...["-append", "panic=-1 quiet mitigations=off random.trust_cpu=on tsc=reliable"],
]

function requirePrograms() {
  const missing = [QEMU, "iperf3", "passt", "cpio"].filter(name => !which(name))
  if (missing.length > 0) throw new Skip(`not installed: ${missing.join(", ")}`)
}

export default {
  name: "net-qemu",
  description: "iperf3 to and from a guest of QEMU behind passt",
  async prepare({ folder, onEnd }) {
    requirePrograms()
    const kernel = await stockKernel()
    const initramfs = await makeInitramfs(folder, kernel, which("iperf3"))
    const { near, far } = makeNamespaces(onEnd)
    const sockets = passtFolder(folder)
    const [ours, own, card] = [`${sockets}/ours`, `${sockets}/own`, `${folder}/card`]
    const publish = ["-t", IPERF3_PORT, "-u", IPERF3_PORT]
    await startPasst(["passt"], { namespace: near, interface: NEAR_END, socket: ours, publish }, onEnd)
    await startPasst(["passt"], { namespace: far, interface: FAR_END, socket: own, publish }, onEnd)
    await startServer(inside(near, process.execPath, SERVER, "stream", card, ours), card, onEnd)
    const withOurs = [
      ...["-chardev", `socket,id=card,path=${card}`],
      ...["-netdev", "vhost-user,id=net0,chardev=card,queues=1", "-device", CARD],
    ]
    const stream = `stream,id=net0,server=off,addr.type=unix,addr.path=${own}`
    const command = machine(kernel, initramfs)
    const guests = [
      [near, startChild([...command, ...withOurs], {}, onEnd)],
      [far, startChild([...command, "-netdev", stream, "-device", CARD], {}, onEnd)],
    ]
    for (const [namespace, child] of guests) await untilIperf3(child, namespace, LOOPBACK, START_LIMIT_MS)
    const version = versionOf(QEMU).replace(/.*version (\S+).*/, "$1")
    return IPERF3_WORKLOADS.map(workload => ({
      ...{ name: `${workload.name} of QEMU, passt`, unit: workload.unit, better: "higher" },
      ours: () => measureIperf3(near, LOOPBACK, workload),
      peer: {
        name: `QEMU ${version}, -netdev stream`,
        measure: () => measureIperf3(far, LOOPBACK, workload),
      },
      goal: goals.ratioAtLeast(1),
    }))
  },
}
