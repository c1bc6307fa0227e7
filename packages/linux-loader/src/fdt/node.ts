import { LoaderError } from "../errors.js"

/** Devicetree Specification 0.4, 2.2.1 and 2.2.4: characters and lengths of names. */
const NODE_NAME = /^[A-Za-z][0-9A-Za-z,._+-]{0,30}(@[0-9A-Za-z,._+-]+)?$/
const PROPERTY_NAME = /^[0-9A-Za-z,._+?#-]{1,31}$/
const MAX_PHANDLE = 0xffff_fffe

/** Hands out phandles, one source per tree. */
export interface PhandleSource {
  next: number
}

/**
 * One node of a device tree. Values are written big-endian, as the tree has them. Every method refuses, with
 * `LoaderError` `invalid-argument`, a name that the specification does not allow or that the node has already.
 */
export class FdtNode {
  readonly #properties = new Map<string, Uint8Array>()
  readonly #children = new Map<string, FdtNode>()
  readonly #phandles: PhandleSource
  #phandle: number | undefined

  /** @internal Nodes come from `FdtBuilder.root` and `node`. */
  constructor(phandles: PhandleSource) {
    this.#phandles = phandles
  }

  /** Properties by name, in the order they were added. */
  get properties(): ReadonlyMap<string, Uint8Array> {
    return this.#properties
  }

  /** Child nodes by name, in the order they were added. */
  get children(): ReadonlyMap<string, FdtNode> {
    return this.#children
  }

  /** Adds a property without a value, whose presence says it all. */
  empty(name: string): this {
    return this.bytes(name, new Uint8Array())
  }

  /** Adds a property of 32-bit cells. */
  u32(name: string, ...cells: readonly number[]): this {
    const bytes = new DataView(new ArrayBuffer(cells.length * 4))
    cells.forEach((cell, i) => {
      requireRange(cell, 2 ** 32, name)
      bytes.setUint32(i * 4, cell)
    })
    return this.bytes(name, new Uint8Array(bytes.buffer))
  }

  /** Adds a property of 64-bit values: addresses and sizes under `#address-cells = <2>`. */
  u64(name: string, ...values: readonly (number | bigint)[]): this {
    const bytes = new DataView(new ArrayBuffer(values.length * 8))
    values.forEach((value, i) => {
      if (typeof value === "number") requireRange(value, 2 ** 53, name)
      else if (BigInt.asUintN(64, value) !== value) throw new LoaderError("invalid-argument", {}, name)
      bytes.setBigUint64(i * 8, BigInt(value))
    })
    return this.bytes(name, new Uint8Array(bytes.buffer))
  }

  /** Adds a property of one string or a list of them. */
  string(name: string, ...strings: readonly string[]): this {
    if (strings.some(text => /[^ -~]/.test(text))) throw new LoaderError("invalid-argument", {}, name)
    return this.bytes(name, Buffer.from(strings.map(text => `${text}\0`).join(""), "latin1"))
  }

  /** Adds a property of raw bytes, which are copied. */
  bytes(name: string, value: Uint8Array): this {
    if (!PROPERTY_NAME.test(name) || this.#properties.has(name))
      throw new LoaderError("invalid-argument", {}, `property ${name}`)
    this.#properties.set(name, Uint8Array.from(value))
    return this
  }

  /** Adds a child node, such as `uart@9000000`, and lets `describe` fill it. */
  node(name: string, describe?: (child: FdtNode) => void): this {
    if (!NODE_NAME.test(name) || this.#children.has(name))
      throw new LoaderError("invalid-argument", {}, `node ${name}`)
    const child = new FdtNode(this.#phandles)
    this.#children.set(name, child)
    describe?.(child)
    return this
  }

  /** The number by which other nodes refer to this one; the first call gives it one. */
  phandle(): number {
    if (this.#phandle === undefined) {
      if (this.#phandles.next > MAX_PHANDLE) throw new LoaderError("invalid-argument", {}, "phandles")
      this.#phandle = this.#phandles.next++
      this.u32("phandle", this.#phandle)
    }
    return this.#phandle
  }
}

function requireRange(value: number, end: number, name: string): void {
  if (!(Number.isSafeInteger(value) && value >= 0 && value < end))
    throw new LoaderError("invalid-argument", { need: value }, name)
}
