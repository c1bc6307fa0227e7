import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { writeInitramfs } from "@ts-vmm/guest"
import { guestArtifacts } from "@ts-vmm/guest/artifacts"
import type { MachineConfig, MicroVm } from "@ts-vmm/vmm"
import { startMachine } from "./machine.js"

/** Says when it is there; then does what it is told by the console, line by line. */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
stty -echo; echo shell is up
while read -r line; do eval "$line"; done`

/** A guest with nothing but a shell on its console. */
export interface GuestShell {
  readonly machine: MicroVm
  /** Runs one line of shell. @returns what it wrote */
  run(line: string): Promise<string>
}

/**
 * Boots the guest kernel of this project with a shell. `dispose` ends the machine.
 *
 * @param programs - further static programs: name in /bin to path on this machine
 */
export async function startShell(
  config: Partial<MachineConfig>,
  programs: Readonly<Record<string, string>> = {},
): Promise<GuestShell & { dispose(): Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), "guest-shell-"))
  const initramfs = join(folder, "initramfs")
  const files = Object.entries({ ...programs, busybox: "/bin/busybox" }).map(
    ([name, path]) => ({ type: "file", path: `bin/${name}`, mode: 0o755, data: readFileSync(path) }) as const,
  )
  const folders = ["bin", "proc", "sys", "dev", "mnt"].map(
    path => ({ type: "directory", path, mode: 0o755 }) as const,
  )
  writeFileSync(
    initramfs,
    writeInitramfs([
      ...folders,
      ...files,
      { type: "file", path: "init", mode: 0o755, data: Buffer.from(INIT) },
    ]),
  )
  const { machine, shows, text } = await startMachine({
    kernel: guestArtifacts().kernel("linux-kvm-x86_64"),
    initramfs,
    cmdline: "console=ttyS0 panic=-1 reboot=k pci=off quiet",
    ...config,
  })
  await shows("shell is up")
  let count = 0
  const run = async (line: string) => {
    const mark = `<${++count}>`
    machine.writeConsole(Buffer.from(`echo '${mark}'; ${line}; echo '</${count}>'\n`))
    await shows(`</${count}>`)
    const said = text()
    return said
      .slice(said.lastIndexOf(mark) + mark.length, said.lastIndexOf(`</${count}>`))
      .replaceAll("\r", "")
      .trim()
  }
  return {
    machine,
    run,
    dispose: async () => {
      await machine.stop()
      rmSync(folder, { recursive: true })
    },
  }
}

/** Has the guest's driver take, or let go of, the device at `address`. */
export function driver(verb: "bind" | "unbind", address: number): string {
  const name = `$(sed -n 's/^ *${address.toString(16)}-[^:]* : //p' /proc/iomem | head -n 1)`
  return `echo -n ${name} > /sys/bus/platform/drivers/virtio-mmio/${verb}`
}
