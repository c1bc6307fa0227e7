import { type ChildProcess, spawn } from "node:child_process"
import type { StockKernel } from "../fixtures/stock-kernel.js"

const MEMORY_MIB = 256

/** One vhost-user device of the machine. */
export interface VhostUserSlot {
  /** Path of the back end's listening socket. */
  readonly socketPath: string
  /** QEMU's device with its properties but without the chardev, such as "vhost-user-blk-pci,num-queues=2". */
  readonly device: string
  /** A network card: QEMU gives it the back end by way of a netdev with this many queue pairs. */
  readonly queuePairs?: number
}

/** What to boot. */
export interface QemuOptions {
  readonly kernel: StockKernel
  readonly initramfs: string
  readonly slots: readonly VhostUserSlot[]
  /** The whole machine is stopped after this. */
  readonly timeoutMs: number
}

/** A machine that runs. */
export interface QemuMachine {
  readonly child: ChildProcess
  /** Resolves with everything that came from the serial console when QEMU has ended. */
  readonly ended: Promise<string>
  /** Resolves when the console shows this text; rejects when QEMU ends first. */
  waitFor(text: string): Promise<void>
}

function qemuArguments({ kernel, initramfs, slots }: QemuOptions): string[] {
  const devices = slots.flatMap(({ socketPath, device, queuePairs }, index) => [
    ...["-chardev", `socket,id=slot${index},path=${socketPath}`],
    ...(queuePairs === undefined
      ? ["-device", `${device},chardev=slot${index}`]
      : [
          ...["-netdev", `vhost-user,id=net${index},chardev=slot${index},queues=${queuePairs}`],
          ...["-device", `${device},netdev=net${index}`],
        ]),
  ])
  return [
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"],
    ...["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", `${MEMORY_MIB}M`],
    // vhost-user back ends map the guest's memory: it has to be a shared file.
    ...[
      "-object",
      `memory-backend-memfd,id=ram,size=${MEMORY_MIB}M,share=on`,
      "-machine",
      "q35,memory-backend=ram",
    ],
    ...["-kernel", kernel.image, "-initrd", initramfs],
    ...["-append", "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on tsc=reliable"],
    ...devices,
  ]
}

/** Boots Debian's kernel under QEMU's software CPU with vhost-user devices. */
export function startQemu(options: QemuOptions): QemuMachine {
  const child = spawn("qemu-system-x86_64", qemuArguments(options), { stdio: ["ignore", "pipe", "pipe"] })
  const timer = setTimeout(() => child.kill("SIGKILL"), options.timeoutMs)
  let text = ""
  const listeners = new Set<() => void>()
  const collect = (chunk: Buffer) => {
    text += chunk.toString()
    for (const listener of listeners) listener()
  }
  child.stdout.on("data", collect)
  child.stderr.on("data", collect)
  const ended = new Promise<string>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", () => {
      clearTimeout(timer)
      resolve(text)
    })
  })
  const waitFor = (wanted: string) =>
    new Promise<void>((resolve, reject) => {
      const look = () => {
        if (!text.includes(wanted)) return
        listeners.delete(look)
        resolve()
      }
      listeners.add(look)
      look()
      ended.then(
        all => reject(new Error(`QEMU ended before ${JSON.stringify(wanted)}:\n${all.slice(-4000)}`)),
        reject,
      )
    })
  return { child, ended, waitFor }
}
