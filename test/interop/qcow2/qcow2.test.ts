// Images in the qcow2 format beside QEMU's own programs: read, written, and left behind by a machine that stopped.
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  type BlockBackend,
  createQcow2,
  openFileBackend,
  openQcow2Backend,
} from "@ts-vmm/virtio-devices/block"
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest"
import { Random } from "../../fuzz/random.js"
import { randomWrite, readDisk, writeDisk, zeroDisk } from "./disk-model.js"
import { PowerCut } from "./power-cut.js"

const MIB = 1024 * 1024
let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ts-vmm-qcow2-"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const open: BlockBackend[] = []
afterEach(() => {
  for (const disk of open.splice(0)) disk.close()
})

async function openImage(
  path: string,
  options?: Parameters<typeof openQcow2Backend>[1],
): Promise<BlockBackend> {
  const disk = await openQcow2Backend(path, options)
  open.push(disk)
  return disk
}

let count = 0
const fresh = (suffix = "qcow2") => join(folder, `${++count}.${suffix}`)
const qemuImg = (...args: string[]) => execFileSync("qemu-img", args, { encoding: "utf8", stdio: "pipe" })
const qemuIo = (path: string, ...commands: string[]) =>
  execFileSync("qemu-io", [...commands.flatMap(command => ["-c", command]), path], { encoding: "utf8" })

/** @throws when the image is not in order; room that is lost may be allowed */
function check(path: string, { leaks = false } = {}): void {
  try {
    qemuImg("check", "-f", "qcow2", path)
  } catch (error) {
    const { status, stdout } = error as { status: number; stdout: string }
    // qemu-img(1): 3 is leaked clusters and nothing worse.
    if (!(leaks && status === 3)) throw new Error(`qemu-img check: ${status}\n${stdout}`)
  }
}

function rawOf(path: string, format = "qcow2"): Buffer {
  const raw = fresh("raw")
  qemuImg("convert", "-f", format, "-O", "raw", path, raw)
  const bytes = readFileSync(raw)
  rmSync(raw)
  return bytes
}

/** Writes here and there, flushes now and then, and keeps what the disk has to hold. */
async function scribble(
  disk: BlockBackend,
  model: Buffer,
  writes: number,
  maxBytes = 200_000,
): Promise<void> {
  const random = new Random(writes, "scribble", 0)
  for (let i = 0; i < writes; i++) {
    const { offset, bytes } = randomWrite(random, model.length, maxBytes)
    if (random.oneIn(5)) {
      await zeroDisk(disk, offset, bytes.length)
      model.fill(0, offset, offset + bytes.length)
      continue
    }
    await writeDisk(disk, offset, bytes)
    bytes.copy(model, offset)
    if (random.oneIn(8)) await disk.flush?.()
  }
}

/** What clusters gave back is counted after one flush, and the counts are written with the next. */
async function settle(disk: BlockBackend): Promise<void> {
  await disk.flush?.()
  await disk.flush?.()
}

const FORMATS = [
  { options: "compat=1.1", mib: 64 },
  { options: "compat=0.10", mib: 64 },
  { options: "compat=1.1,cluster_size=4096", mib: 20 },
  { options: "compat=1.1,cluster_size=2M", mib: 64 },
  { options: "compat=1.1,refcount_bits=1", mib: 32 },
  { options: "compat=1.1,refcount_bits=64", mib: 32 },
  { options: "compat=1.1,lazy_refcounts=on", mib: 32 },
  { options: "preallocation=metadata", mib: 32 },
]

describe("what is written here, QEMU reads", () => {
  test.each(FORMATS)("$options", async ({ options, mib }) => {
    const path = fresh()
    qemuImg("create", "-q", "-f", "qcow2", "-o", options, path, `${mib}M`)
    const model = Buffer.alloc(mib * MIB)
    const disk = await openImage(path)
    await scribble(disk, model, 120)
    expect((await readDisk(disk, 0, model.length)).equals(model)).toBe(true)
    await settle(disk)
    disk.close()
    check(path)
    expect(rawOf(path).equals(model)).toBe(true)
  })

  test("an image made here, of which QEMU then writes as well", async () => {
    const path = fresh()
    await createQcow2(path, { size: 100 * MIB })
    check(path)
    const model = Buffer.alloc(100 * MIB)
    const disk = await openImage(path)
    await scribble(disk, model, 60)
    await settle(disk)
    disk.close()
    qemuIo(path, "write -P 7 1M 3M", "write -z 20M 10M", "flush")
    model.fill(7, MIB, 4 * MIB).fill(0, 20 * MIB, 30 * MIB)
    const again = await openImage(path)
    await scribble(again, model, 61)
    await settle(again)
    again.close()
    check(path)
    expect(rawOf(path).equals(model)).toBe(true)
  })

  test("a table of reference counts that is too small for the disk is made anew", async () => {
    const path = fresh()
    // One cluster of 4 KiB counts 4 GiB.
    qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "40G")
    const disk = await openImage(path)
    for (let i = 0; i < 40; i++) await writeDisk(disk, i * 1024 * MIB, Buffer.alloc(512, i + 1))
    await disk.flush?.()
    for (let i = 0; i < 40; i++) expect((await readDisk(disk, i * 1024 * MIB, 512))[0]).toBe(i + 1)
    disk.close()
    check(path, { leaks: true })
    expect(qemuIo(path, `read -P 40 ${39 * 1024}M 512`)).toContain("read 512/512")
  })
})

describe("what QEMU writes is read here", () => {
  test.each(["zlib", "zstd"])("compressed with %s, and written to afterwards", async type => {
    const model = randomBlocks(24 * MIB)
    const raw = fresh("raw")
    writeFileSync(raw, model)
    const path = fresh()
    qemuImg(
      ...["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", `compression_type=${type}`],
      ...[raw, path],
    )
    const disk = await openImage(path)
    expect((await readDisk(disk, 0, model.length)).equals(model)).toBe(true)
    await scribble(disk, model, 50)
    await settle(disk)
    disk.close()
    check(path)
    expect(rawOf(path).equals(model)).toBe(true)
  })

  test("zeroes that hide what lies below", async () => {
    const base = fresh("raw")
    writeFileSync(base, Buffer.alloc(8 * MIB, 0x55))
    const path = fresh()
    qemuImg("create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, path, "8M")
    qemuIo(path, "write -z 1M 2M", "write -P 9 5M 1M")
    const model = Buffer.alloc(8 * MIB, 0x55)
      .fill(0, MIB, 3 * MIB)
      .fill(9, 5 * MIB, 6 * MIB)
    const openBacking = () => openFileBackend(base, { readOnly: true })
    const disk = await openImage(path, { openBacking })
    expect((await readDisk(disk, 0, model.length)).equals(model)).toBe(true)
    await scribble(disk, model, 40)
    expect((await readDisk(disk, 0, model.length)).equals(model)).toBe(true)
    await settle(disk)
    disk.close()
    check(path)
    expect(rawOf(path).equals(model)).toBe(true)
  })

  test("a chain of three images, the lowest shorter than the disk", async () => {
    const [low, middle, top] = [fresh(), fresh(), fresh()]
    qemuImg("create", "-q", "-f", "qcow2", low, "3M")
    qemuIo(low, "write -P 1 0 3M")
    qemuImg("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", low, middle, "6M")
    qemuIo(middle, "write -P 2 1M 1M")
    await createQcow2(top, { size: 6 * MIB, backing: { name: middle, format: "qcow2" } })
    const asked: unknown[] = []
    const disk = await openImage(top, {
      openBacking: file => {
        asked.push(file)
        return openQcow2Backend(middle, {
          readOnly: true,
          openBacking: () => openQcow2Backend(low, { readOnly: true }),
        })
      },
    })
    expect(asked).toEqual([{ name: middle, format: "qcow2" }])
    const model = Buffer.alloc(6 * MIB)
      .fill(1, 0, 3 * MIB)
      .fill(2, MIB, 2 * MIB)
    expect((await readDisk(disk, 0, model.length)).equals(model)).toBe(true)
    await scribble(disk, model, 30, 3000)
    await settle(disk)
    disk.close()
    check(top)
    expect(rawOf(top).equals(model)).toBe(true)
  })

  test("with a snapshot inside: for reading only", async () => {
    const path = fresh()
    qemuImg("create", "-q", "-f", "qcow2", path, "4M")
    qemuIo(path, "write -P 1 0 1M")
    qemuImg("snapshot", "-c", "before", path)
    qemuIo(path, "write -P 2 0 64k")
    const disk = await openImage(path, { readOnly: true })
    expect((await readDisk(disk, 0, 512))[0]).toBe(2)
    expect((await readDisk(disk, 65536, 512))[0]).toBe(1)
    disk.close()
    await expect(openImage(path)).rejects.toMatchObject({ code: "unsupported" })
  })

  test.each(["extended_l2=on,cluster_size=128k", "data_file=@,data_file_raw=on"])(
    "%s is refused",
    async options => {
      const path = fresh()
      qemuImg("create", "-q", "-f", "qcow2", "-o", options.replace("@", fresh("raw")), path, "4M")
      await expect(openImage(path)).rejects.toMatchObject({ code: "unsupported" })
    },
  )
})

describe("what is discarded", () => {
  test("goes back to the host with the next flush, and reads as zeroes, also over a backing file", async () => {
    const [base, path] = [fresh("raw"), fresh()]
    writeFileSync(base, Buffer.alloc(8 * MIB, 0x55))
    await createQcow2(path, { size: 8 * MIB, backing: { name: base, format: "raw" } })
    const disk = await openImage(path, { openBacking: () => openFileBackend(base, { readOnly: true }) })
    await writeDisk(disk, 0, Buffer.alloc(4 * MIB, 9))
    await disk.flush?.()
    const before = statSync(path).blocks
    await disk.erase?.(MIB, 2 * MIB, "discard")
    // Of the cluster that it covers in part nothing is changed.
    await disk.erase?.(6 * MIB, 512, "discard")
    await settle(disk)
    expect(statSync(path).blocks).toBeLessThan(before - (3 * MIB) / 2 / 512)
    const model = Buffer.alloc(8 * MIB, 0x55)
      .fill(9, 0, 4 * MIB)
      .fill(0, MIB, 3 * MIB)
    expect((await readDisk(disk, 0, model.length)).equals(model)).toBe(true)
    disk.close()
    check(path)
    expect(rawOf(path).equals(model)).toBe(true)
  })

  test("is zeroes also where version 2 has no word for it", async () => {
    const [base, path] = [fresh("raw"), fresh()]
    writeFileSync(base, Buffer.alloc(MIB, 0x55))
    qemuImg("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-F", "raw", "-b", base, path, "1M")
    const disk = await openImage(path, { openBacking: () => openFileBackend(base, { readOnly: true }) })
    await zeroDisk(disk, 0, 512 * 1024)
    await settle(disk)
    disk.close()
    check(path)
    expect(rawOf(path).equals(Buffer.alloc(MIB, 0x55).fill(0, 0, 512 * 1024))).toBe(true)
  })
})

test("B9: only one writes at a time", async () => {
  const path = fresh()
  await createQcow2(path, { size: MIB })
  await openImage(path)
  await expect(openImage(path)).rejects.toMatchObject({ code: "locked" })
  await expect(openImage(path, { readOnly: true })).rejects.toMatchObject({ code: "locked" })
})

describe("a machine that stops", () => {
  test.each([1, 2, 3, 4])(
    "B10: between any two writes to its disk: what was flushed is there, seed %i",
    async seed => {
      const [base, path] = [fresh("raw"), fresh()]
      const below = randomBlocks(4 * MIB)
      writeFileSync(base, below)
      qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "-F", "raw", "-b", base, path, "4M")
      const cut = await PowerCut.open(path, openFileBackend(base, { readOnly: true }))
      const random = new Random(seed, "power cut", 0)
      for (let i = 0; i < 60; i++) {
        const write = randomWrite(random, 4 * MIB, 40_000)
        if (random.oneIn(5)) await cut.zero(write.offset, write.bytes.length)
        else await cut.write(write.offset, write.bytes)
        if (!random.oneIn(6)) continue
        await cut.flush()
      }
      cut.close()
      for (const { image, wrongSectors } of cut.states(random, 25)) {
        const left = fresh()
        writeFileSync(left, image)
        check(left, { leaks: true })
        expect(wrongSectors(below, rawOf(left))).toEqual([])
      }
    },
  )
})

/** Blocks of 4 KiB, some of which pack well and some not at all. */
function randomBlocks(bytes: number): Buffer {
  const random = new Random(bytes, "blocks", 0)
  const all = Buffer.alloc(bytes)
  for (let at = 0; at < bytes; at += 4096)
    if (random.oneIn(3)) for (let i = at; i < at + 4096; i += 4) all.writeUInt32LE(random.u32(), i)
    else all.fill(random.below(256), at, at + 4096)
  return all
}
