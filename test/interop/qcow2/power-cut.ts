import { constants, openSync, readFileSync } from "node:fs"
import type { BlockBackend } from "@ts-vmm/virtio-devices/block"
import { ImageFile, type ImageWrite } from "../../../packages/virtio-devices/src/block/qcow2/image-file.js"
import { openDisk } from "../../../packages/virtio-devices/src/block/qcow2/qcow2-backend.js"
import type { Random } from "../../fuzz/random.js"
import { writeDisk, zeroDisk } from "./disk-model.js"

const SECTOR = 512

type Event =
  | { readonly kind: "write"; readonly offset: number; readonly bytes: Buffer }
  | { readonly kind: "extend"; readonly size: number }
  | { readonly kind: "sync" }
  /** The guest wrote to its disk. */
  | { readonly kind: "guest-write"; readonly offset: number; readonly bytes: Buffer }
  /** A flush of the guest's has ended. */
  | { readonly kind: "flushed" }

/** What may be found after a stop. */
export interface StoppedState {
  /** The image's file. */
  readonly image: Buffer
  /** Sectors that hold what they cannot. @param first content of the disk at the beginning */
  wrongSectors(first: Buffer, found: Buffer): number[]
}

/** Keeps what is done to an image's file, to say what a stop at any time may leave of it. */
class RecordingFile extends ImageFile {
  readonly events: Event[] = []

  override async write(write: ImageWrite): Promise<void> {
    this.events.push({ kind: "write", offset: write.offset, bytes: Buffer.from(write.bytes) })
    return super.write(write)
  }

  override async extend(size: number): Promise<void> {
    this.events.push({ kind: "extend", size })
    return super.extend(size)
  }

  override punch(offset: number, length: number): void {
    this.events.push({ kind: "write", offset, bytes: Buffer.alloc(length) })
    super.punch(offset, length)
  }

  override async sync(): Promise<void> {
    await super.sync()
    this.events.push({ kind: "sync" })
  }
}

/** A disk on which every write is known. */
export class PowerCut {
  readonly #file: RecordingFile
  readonly #disk: BlockBackend
  readonly #first: Buffer

  private constructor(file: RecordingFile, disk: BlockBackend, first: Buffer) {
    this.#file = file
    this.#disk = disk
    this.#first = first
  }

  static async open(path: string, backing: BlockBackend): Promise<PowerCut> {
    const first = readFileSync(path)
    const file = new RecordingFile(openSync(path, constants.O_RDWR), path)
    return new PowerCut(file, await openDisk(file, false, { openBacking: () => backing }), first)
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    const { events } = this.#file
    events.push({ kind: "guest-write", offset, bytes: Buffer.from(bytes) })
    await writeDisk(this.#disk, offset, bytes, write => events.push({ kind: "write", ...write }))
  }

  async zero(offset: number, length: number): Promise<void> {
    this.#file.events.push({ kind: "guest-write", offset, bytes: Buffer.alloc(length) })
    await zeroDisk(this.#disk, offset, length)
  }

  async flush(): Promise<void> {
    await this.#disk.flush?.()
    this.#file.events.push({ kind: "flushed" })
  }

  close(): void {
    this.#disk.close()
  }

  /** Stops at random times: what was synced is there, of the rest any sectors. */
  *states(random: Random, count: number): Generator<StoppedState> {
    const { events } = this.#file
    for (let i = 0; i < count; i++) {
      const done = events.slice(0, random.between(1, events.length))
      yield {
        image: imageAfter(this.#first, done, random),
        wrongSectors: (first, found) => wrongSectors(done, first, found),
      }
    }
  }
}

function imageAfter(first: Buffer, done: readonly Event[], random: Random): Buffer {
  const synced = done.findLastIndex(({ kind }) => kind === "sync")
  let image = Buffer.from(first)
  const extend = (size: number) => {
    if (size > image.length) image = Buffer.concat([image], size)
  }
  done.forEach((event, at) => {
    if (event.kind === "extend" && (at < synced || random.oneIn(2))) extend(event.size)
    if (event.kind !== "write") return
    for (let from = 0; from < event.bytes.length; from += SECTOR) {
      if (at > synced && random.oneIn(2)) continue
      const part = event.bytes.subarray(from, from + SECTOR)
      extend(event.offset + from + part.length)
      part.copy(image, event.offset + from)
    }
  })
  return image
}

/** A sector holds what it held at the last flush, or what was written to it since. */
function wrongSectors(done: readonly Event[], first: Buffer, found: Buffer): number[] {
  const flushed = done.findLastIndex(({ kind }) => kind === "flushed")
  const durable = Buffer.from(first)
  const later: { offset: number; bytes: Buffer }[] = []
  done.forEach((event, at) => {
    if (event.kind !== "guest-write") return
    if (at < flushed) event.bytes.copy(durable, event.offset)
    else later.push(event)
  })
  const wrong: number[] = []
  for (let at = 0; at < found.length; at += SECTOR) {
    const sector = found.subarray(at, at + SECTOR)
    if (sector.equals(durable.subarray(at, at + SECTOR))) continue
    const isLater = later.some(
      ({ offset, bytes }) =>
        at >= offset &&
        at < offset + bytes.length &&
        sector.equals(bytes.subarray(at - offset, at - offset + SECTOR)),
    )
    if (!isLater) wrong.push(at / SECTOR)
  }
  return wrong
}
