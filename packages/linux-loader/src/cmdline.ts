import { LoaderError } from "./errors.js"

/** Longest command line of x86 kernels, with its NUL. @see arch/x86/include/asm/setup.h */
export const COMMAND_LINE_SIZE = 2048

/** A virtio-mmio window as `virtio_mmio.device=` takes it. */
export interface VirtioMmioDevice {
  /** Length of the window in bytes. */
  readonly size: number
  /** Guest address of the window. */
  readonly base: number
  /** Interrupt line. */
  readonly irq: number
  /** Number for the device's name; the kernel counts by itself without it. */
  readonly id?: number
}

/**
 * Builds a kernel command line that a kernel reads as it was meant: printable ASCII, balanced quotes, within
 * the kernel's limit. A refused call leaves the command line as it was.
 *
 * @example
 * ```ts
 * const cmdline = new Cmdline("console=ttyS0 panic=-1")
 *   .addVirtioMmioDevice({ size: 4096, base: 0xd000_0000, irq: 5 })
 *   .insertInitArgs("--verbose")
 * cmdline.toString()   // console=ttyS0 panic=-1 virtio_mmio.device=4K@0xd0000000:5 -- --verbose
 * ```
 */
export class Cmdline {
  /** Longest command line in bytes, with its NUL. */
  readonly maxSize: number
  #parameters: readonly string[] = []
  #initArgs: readonly string[] = []

  /**
   * @param text a whole command line to start from; a `--` in it begins the arguments of init
   * @throws LoaderError as `insertStr`
   */
  constructor(text = "", options: { readonly maxSize?: number } = {}) {
    this.maxSize = options.maxSize ?? COMMAND_LINE_SIZE
    if (!(Number.isSafeInteger(this.maxSize) && this.maxSize > 0))
      throw new LoaderError("invalid-argument", { need: this.maxSize }, "maxSize")
    this.insertStr(text)
  }

  /** Length in bytes, without the NUL. */
  get length(): number {
    return this.toString().length
  }

  /**
   * Adds `key=value`. A value with spaces is put in quotes, as kernels take it.
   * @throws LoaderError `cmdline-key` (empty, or with a space, `=` or quote), `cmdline-character`,
   * `cmdline-quote` (a quote in the value, which no kernel can be told), `cmdline-too-long`
   */
  insert(key: string, value: string): this {
    checkCharacters(key)
    checkCharacters(value)
    if (key === "" || /[ ="]/.test(key) || key === "--") throw new LoaderError("cmdline-key", {}, key)
    if (value.includes('"')) throw new LoaderError("cmdline-quote", { offset: value.indexOf('"') }, key)
    return this.#replace(
      [...this.#parameters, `${key}=${value.includes(" ") ? `"${value}"` : value}`],
      this.#initArgs,
    )
  }

  /**
   * Adds text as it is: any number of parameters. What follows a `--` of its own goes to init.
   * @throws LoaderError `cmdline-character`, `cmdline-quote` (a quote left open), `cmdline-too-long`
   */
  insertStr(text: string): this {
    const words = splitWords(text)
    const dashes = words.indexOf("--")
    if (dashes < 0) return this.#replace([...this.#parameters, ...words], this.#initArgs)
    return this.#replace(
      [...this.#parameters, ...words.slice(0, dashes)],
      [...this.#initArgs, ...words.slice(dashes + 1)],
    )
  }

  /**
   * Adds arguments for init: the kernel hands on what follows ` -- ` without reading it.
   * @throws LoaderError `cmdline-character`, `cmdline-quote`, `cmdline-too-long`
   */
  insertInitArgs(text: string): this {
    return this.#replace(this.#parameters, [...this.#initArgs, ...splitWords(text)])
  }

  /**
   * Adds a virtio-mmio window for kernels with `CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`.
   * @throws LoaderError `cmdline-device` (no size, a number that is no unsigned integer), `cmdline-too-long`
   * @see drivers/virtio/virtio_mmio.c
   */
  addVirtioMmioDevice({ size, base, irq, id }: VirtioMmioDevice): this {
    const numbers = id === undefined ? [size, base, irq] : [size, base, irq, id]
    if (size === 0 || numbers.some(n => !Number.isSafeInteger(n) || n < 0))
      throw new LoaderError("cmdline-device", { at: base, need: size })
    const suffix = id === undefined ? "" : `:${id}`
    return this.insert("virtio_mmio.device", `${withUnit(size)}@0x${base.toString(16)}:${irq}${suffix}`)
  }

  /** The command line, parameters first, then ` -- ` and the arguments of init if there are any. */
  toString(): string {
    return join(this.#parameters, this.#initArgs)
  }

  /** The command line with its NUL, as it goes into guest memory. */
  toBytes(): Uint8Array {
    return Buffer.from(`${this.toString()}\0`, "latin1")
  }

  #replace(parameters: readonly string[], initArgs: readonly string[]): this {
    const size = join(parameters, initArgs).length + 1
    if (size > this.maxSize) throw new LoaderError("cmdline-too-long", { need: size, have: this.maxSize })
    this.#parameters = parameters
    this.#initArgs = initArgs
    return this
  }
}

function join(parameters: readonly string[], initArgs: readonly string[]): string {
  return (initArgs.length > 0 ? [...parameters, "--", ...initArgs] : parameters).join(" ")
}

function withUnit(size: number): string {
  for (const [unit, shift] of [
    ["G", 2 ** 30],
    ["M", 2 ** 20],
    ["K", 2 ** 10],
  ] as const)
    if (size % shift === 0) return `${size / shift}${unit}`
  return `${size}`
}

function checkCharacters(text: string): void {
  const bad = text.search(/[^ -~]/)
  if (bad >= 0) throw new LoaderError("cmdline-character", { offset: bad, have: text.charCodeAt(bad) })
}

/** Words as the kernel splits them: at spaces outside of quotes. */
function splitWords(text: string): string[] {
  checkCharacters(text)
  const words = text.match(/(?:[^ "]|"[^"]*"|")+/g) ?? []
  if ((text.split('"').length - 1) % 2 !== 0)
    throw new LoaderError("cmdline-quote", { offset: text.lastIndexOf('"') })
  return words
}
