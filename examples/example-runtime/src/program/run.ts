import { resolve as absolute } from "node:path"
import type { Command } from "commander"
import {
  collect,
  cpusParser,
  memoryParser,
  parseDisk,
  parseDiskOperations,
  parseDiskRate,
  parseEnvironment,
  parseGuestAddress,
  parseMount,
  parseMtu,
  parsePort,
  parseQueuePairs,
  parseStorageOption,
  parseVolume,
  secondsParser,
} from "../arguments.js"

/** `run` */
export function addRun(program: Command): void {
  program
    .command("run")
    .description("Run a command in a new sandbox")
    .passThroughOptions()
    .argument("<image>", "name, id, or oci:DIR, oci-archive:FILE, docker-archive:FILE, rootfs:DIR")
    .argument("[command...]", "instead of the image's command")
    .option(
      "--rootfs",
      "the image is DIR[:O|:rw], a folder of the host, below a writable top or written to itself",
    )
    .option("--root-disk", "the image is FILE[:O|:rw], a disk with an ext4 file system, likewise")
    .option("-i, --interactive", "connect stdin")
    .option("-t, --tty", "give the command a terminal")
    .option("--rm", "remove the sandbox's record when it ends")
    .option("--pull <when>", "ask the registry for the image: missing, always or never", "missing")
    .option(
      "--lazy",
      "begin before all of the image is there: by its tables of contents, or pull --keep-index",
    )
    .option(
      "--image-device <device>",
      "blk, or pmem: the image is memory that sandboxes of it share (kvm; default: blk)",
    )
    .option("--name <name>", "name of the sandbox")
    .option("-e, --env <name=value>", "set an environment variable", parseEnvironment, {})
    .option(
      "-v, --volume <source:target[:ro,dax]>",
      "a folder or file of the host in the container",
      parseVolume,
      [],
    )
    .option(
      "--mount <type=…,source=…,target=…>",
      "the same, or a disk, or with type vhost-user-fs or vhost-user-blk what another process serves at a socket",
      parseMount,
      [],
    )
    .option(
      "--network <mode>",
      "none, passt for the host's network without privileges, tap:NAME, a tap device of the host, or cni:NAME, what the CNI configuration of this name says (root)",
      "none",
    )
    .option("--ip <address/bits>", "IPv4 address on a tap device", parseGuestAddress, [])
    .option("--ip6 <address/bits>", "IPv6 address on a tap device", parseGuestAddress, [])
    .option("--gateway <address>", "router of a tap device's network, of IPv4 or IPv6", collect, [])
    .option("--dns <address>", "name server on a tap device", collect, [])
    .option("--mac-address <mac>", "of the network card on a tap device (default: a random one)")
    .option("--mtu <bytes>", "on a tap device (default: the device's)", parseMtu)
    .option("--network-queues <n>", "queue pairs, if the tap device was made for several", parseQueuePairs)
    .option("--network-vhost", "on a tap device: the host's kernel moves the frames, unchecked; kvm only")
    .option("--cni-conf-dir <dir>", "where cni:NAME is described (default: /etc/cni/net.d)", dir =>
      absolute(dir),
    )
    .option(
      "--cni-plugin-dir <dir>",
      "where its plugins are, several times (default: /opt/cni/bin, /usr/lib/cni)",
      (dir, before) => collect(absolute(dir), before),
      [] as readonly string[],
    )
    .option(
      "-p, --publish <host:guest[/udp]>",
      "a port of the host that leads into the container, with passt or CNI plugins that can",
      parsePort,
      [],
    )
    .option("-w, --workdir <dir>", "working directory in the container")
    .option("-u, --user <user>", "name, uid, name:group or uid:gid")
    .option("--entrypoint <program>", "instead of the image's entrypoint")
    .option("--hostname <name>", "host name of the container")
    .option(
      "-m, --memory <mib>",
      "RAM of the guest in MiB, or with a suffix (m, g)",
      memoryParser("--memory"),
    )
    .option(
      "--memory-target <mib>",
      "what the guest shall get along with of it, until it has nothing else left",
      memoryParser("--memory-target"),
    )
    .option(
      "--memory-max <mib>",
      "most RAM that the guest can be given while it runs, 128m or a multiple above --memory (kvm)",
      memoryParser("--memory-max"),
    )
    .option(
      "--storage-opt <size=n>",
      "what the container writes goes to a disk of at most this size, not to RAM (size=1g)",
      parseStorageOption,
    )
    .option(
      "--disk <source:target[:ro,qcow2,direct]>",
      "a disk of the host with an ext4 file system in the container, raw unless qcow2 is said",
      parseDisk,
      [],
    )
    .option(
      "--disk-bps <n>",
      "bytes per second that the sandbox's disks may move, all together (10m)",
      parseDiskRate,
    )
    .option("--disk-iops <n>", "requests per second that they may serve", parseDiskOperations)
    .option("--cpus <n>", "virtual CPUs", cpusParser("--cpus"))
    .option(
      "--cpus-max <n>",
      "most virtual CPUs that the guest can work with while it runs (kvm)",
      cpusParser("--cpus-max"),
    )
    .option("--hypervisor <name>", "auto, kvm or uml", "auto")
    .option("--uml-mode <mode>", "ptrace, or seccomp for trusted workloads", "ptrace")
    .option("--kernel <file>", "another guest kernel")
    .option("--initramfs <file>", "another initramfs, with the agent as its /init")
    .option(
      "--start-timeout <seconds>",
      "how long the guest may take to start (default: 30)",
      secondsParser("--start-timeout"),
    )
    .option(
      "--watchdog <seconds>",
      "end the sandbox when its guest does not answer for so long",
      secondsParser("--watchdog"),
    )
    .option("--read-only", "make the root file system read-only")
    .option("--json", "report the end as one line of JSON on stderr")
    .option("--debug", "log what the runtime does, and the guest's console, to stderr")
    .action(async (image, command, options) => {
      const { run } = await import("../commands/run.js")
      process.exitCode = await run(image, command, options)
    })
}
