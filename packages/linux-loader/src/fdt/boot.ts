import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import type { Cmdline } from "../cmdline.js"
import { LoaderError } from "../errors.js"
import type { LoadedInitrd } from "../initrd.js"
import type { LoadedKernel } from "../loaded-kernel.js"
import { freeSpans, highestFit, ramSpans } from "../placement.js"
import type { FdtBuilder } from "./builder.js"

/** Kernels map no more than this. @see Documentation/arch/arm64/booting.rst, section 2 */
export const FDT_MAX_SIZE = 2 * 2 ** 20
const FDT_ALIGNMENT = 8

/** What an arm64 kernel is told at boot. */
export interface FdtBoot {
  readonly cmdline: Cmdline
  readonly initrd?: LoadedInitrd
  /** Path of the console's node, such as `/uart@9000000`. */
  readonly stdoutPath?: string
  /** Random bytes that the kernel credits as entropy and wipes. */
  readonly rngSeed?: Uint8Array
}

/**
 * Adds cell sizes, the memory nodes and `/chosen` to the root of a tree.
 *
 * @throws LoaderError `invalid-argument` when the root has one of them already
 * @see Devicetree Specification 0.4, 3.4 and 3.6
 *
 * @example
 * ```ts
 * const fdt = new FdtBuilder()
 * describeBoot(fdt, memory, { cmdline, initrd })
 * ```
 */
export function describeBoot(fdt: FdtBuilder, memory: GuestMemory, boot: FdtBoot): void {
  const { cmdline, initrd, stdoutPath, rngSeed } = boot
  fdt.root.u32("#address-cells", 2).u32("#size-cells", 2)
  for (const { start, end } of ramSpans(memory))
    fdt.root.node(`memory@${start.toString(16)}`, node =>
      node.string("device_type", "memory").u64("reg", start, end - start),
    )
  fdt.root.node("chosen", chosen => {
    chosen.string("bootargs", cmdline.toString())
    if (stdoutPath !== undefined) chosen.string("stdout-path", stdoutPath)
    if (rngSeed !== undefined) chosen.bytes("rng-seed", rngSeed)
    if (initrd !== undefined) {
      chosen.u64("linux,initrd-start", initrd.address)
      chosen.u64("linux,initrd-end", initrd.address + initrd.size)
    }
  })
}

/**
 * Writes a device tree as high in RAM as it goes beside kernel and initrd.
 *
 * @returns the address for x0
 * @throws LoaderError `table-no-room` when it is larger than 2 MiB or nothing is free
 *
 * @example
 * ```ts
 * const x0 = writeFdt(memory, fdt.finish(), { kernel, initrd })
 * ```
 */
export function writeFdt(
  memory: GuestMemory,
  blob: Uint8Array,
  { kernel, initrd }: { readonly kernel: LoadedKernel; readonly initrd?: LoadedInitrd },
): GuestAddress {
  const taken = [{ start: kernel.loadAddress, end: kernel.endAddress }]
  if (initrd) taken.push({ start: initrd.address, end: initrd.address + initrd.size })
  const at = highestFit(freeSpans(memory, taken), blob.length, FDT_ALIGNMENT)
  if (blob.length > FDT_MAX_SIZE || at === undefined)
    throw new LoaderError("table-no-room", { need: blob.length, have: FDT_MAX_SIZE })
  memory.write(at, blob)
  return at
}
