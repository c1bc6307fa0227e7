import type { GuestAddress } from "@ts-vmm/vm-memory"
import { LoaderError } from "../errors.js"
import { alignUp } from "../placement.js"
import { FdtNode } from "./node.js"

/** Devicetree Specification 0.4, chapter 5: version 17, readable by software for version 16. */
const FDT_MAGIC = 0xd00d_feed
const FDT_VERSION = 17
const FDT_LAST_COMPATIBLE_VERSION = 16
const HEADER_SIZE = 40
const FDT_BEGIN_NODE = 1
const FDT_END_NODE = 2
const FDT_PROP = 3
const FDT_END = 9

/**
 * Builds a flattened device tree.
 *
 * @example
 * ```ts
 * const fdt = new FdtBuilder()
 * fdt.root.u32("#address-cells", 2).u32("#size-cells", 2).string("compatible", "linux,dummy-virt")
 * fdt.root.node("uart@9000000", uart => uart.string("compatible", "ns16550a").u64("reg", 0x900_0000, 0x1000))
 * const blob = fdt.finish()
 * ```
 */
export class FdtBuilder {
  /** The root node. */
  readonly root = new FdtNode({ next: 1 })
  readonly #reservations: { readonly address: GuestAddress; readonly size: number }[] = []

  /**
   * Keeps a range of guest memory from the kernel.
   * @throws LoaderError `invalid-argument` for an empty range or one beyond 2^53
   */
  reserve(address: GuestAddress, size: number): this {
    if (!(Number.isSafeInteger(address) && address >= 0 && size > 0 && Number.isSafeInteger(address + size)))
      throw new LoaderError("invalid-argument", { at: address, need: size }, "reservation")
    this.#reservations.push({ address, size })
    return this
  }

  /** The tree as a blob of version 17. @param bootCpu the boot CPU's `reg` */
  finish(bootCpu = 0): Uint8Array {
    const strings = new StringTable()
    const structure = Buffer.concat([...structureBlock(this.root, "", strings), word(FDT_END)])
    const reservations = Buffer.concat([...this.#reservations, { address: 0, size: 0 }].map(reservation))
    const structureOffset = HEADER_SIZE + reservations.length
    const stringsOffset = structureOffset + structure.length
    const stringBytes = strings.toBytes()
    const header = [
      FDT_MAGIC,
      stringsOffset + stringBytes.length,
      structureOffset,
      stringsOffset,
      HEADER_SIZE,
      FDT_VERSION,
      FDT_LAST_COMPATIBLE_VERSION,
      bootCpu,
      stringBytes.length,
      structure.length,
    ]
    return Buffer.concat([...header.map(word), reservations, structure, stringBytes])
  }
}

/** Names of properties, each stored once. */
class StringTable {
  readonly #offsets = new Map<string, number>()
  #size = 0

  offset(text: string): number {
    const known = this.#offsets.get(text)
    if (known !== undefined) return known
    const offset = this.#size
    this.#offsets.set(text, offset)
    this.#size += text.length + 1
    return offset
  }

  toBytes(): Uint8Array {
    return Buffer.from([...this.#offsets.keys()].map(text => `${text}\0`).join(""), "latin1")
  }
}

/** A node's properties come before its children. */
function* structureBlock(node: FdtNode, name: string, strings: StringTable): Generator<Uint8Array> {
  yield word(FDT_BEGIN_NODE)
  yield padded(Buffer.from(`${name}\0`, "latin1"))
  for (const [property, value] of node.properties) {
    yield Buffer.concat([FDT_PROP, value.length, strings.offset(property)].map(word))
    yield padded(value)
  }
  for (const [childName, child] of node.children) yield* structureBlock(child, childName, strings)
  yield word(FDT_END_NODE)
}

function reservation({ address, size }: { readonly address: number; readonly size: number }): Uint8Array {
  const bytes = Buffer.alloc(16)
  bytes.writeBigUInt64BE(BigInt(address))
  bytes.writeBigUInt64BE(BigInt(size), 8)
  return bytes
}

function word(value: number): Uint8Array {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

function padded(bytes: Uint8Array): Uint8Array {
  const whole = new Uint8Array(alignUp(bytes.length, 4))
  whole.set(bytes)
  return whole
}
