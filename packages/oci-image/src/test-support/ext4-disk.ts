import { execFileSync, spawnSync } from "node:child_process"
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, readSync } from "node:fs"
import { join } from "node:path"
import { Readable } from "node:stream"
import type { Ext4Options } from "../store/export-ext4.js"
import { ImageStore } from "../store/store.js"

const SBIN = "/usr/sbin:/sbin"
const env = { ...process.env, PATH: `${process.env["PATH"]}:${SBIN}`, LC_ALL: "C" }

/** Why the disks cannot be looked at; false when they can. */
export function e2fsprogsObstacle(): string | false {
  return spawnSync("e2fsck", ["-V"], { env, stdio: "ignore" }).status === 0
    ? false
    : "e2fsprogs is not installed"
}

/** A disk, seen through e2fsprogs: another reader of the format than the one that wrote it. */
export class Ext4Disk {
  readonly path: string

  constructor(path: string) {
    this.path = path
  }

  /** Makes an image of a tar stream and a disk of the image. */
  static async of(tar: Buffer, folder: string, options: Ext4Options = {}): Promise<Ext4Disk> {
    const work = mkdtempSync(join(folder, "ext4-"))
    mkdirSync(join(work, "store"))
    const store = await ImageStore.open(join(work, "store"))
    const { digest } = await store.importTar(Readable.from([tar]))
    await store.exportExt4(digest, join(work, "disk"), options)
    return new Ext4Disk(join(work, "disk"))
  }

  /** What e2fsck says; it changes nothing. An empty text is a file system without a fault. */
  faults(): string {
    const { status, stdout } = spawnSync("e2fsck", ["-fn", this.path], { env, encoding: "utf8" })
    return status === 0 ? "" : stdout
  }

  /** What a copy of the superblock says. */
  superblock(block: number): string {
    const options = ["-h", "-o", `superblock=${block}`, "-o", "blocksize=4096"]
    return execFileSync("dumpe2fs", [...options, this.path], { env, encoding: "utf8", stdio: "pipe" })
  }

  block(number: number): Buffer {
    const bytes = Buffer.alloc(4096)
    const fd = openSync(this.path, "r")
    readSync(fd, bytes, 0, bytes.length, number * bytes.length)
    closeSync(fd)
    return bytes
  }

  /** What a command of debugfs prints. */
  debugfs(command: string): Buffer {
    return execFileSync("debugfs", ["-R", command, this.path], {
      env,
      stdio: ["ignore", "pipe", "ignore"],
      maxBuffer: 2 ** 28,
    })
  }

  content(path: string): Buffer {
    return this.debugfs(`cat "${path}"`)
  }

  /** The text of `stat`, blanks as one. */
  stat(path: string): string {
    return this.debugfs(`stat "${path}"`).toString("latin1").replace(/\s+/g, " ")
  }

  /** Names in a directory. */
  names(path: string): string[] {
    const lines = this.debugfs(`ls -p "${path}"`).toString("latin1").trim().split("\n")
    return lines.map(line => line.split("/")[5] ?? "").filter(name => name !== "." && name !== "..")
  }

  /** Value of an extended attribute, as programs see it. */
  attribute(path: string, name: string, folder: string): Buffer {
    const file = join(mkdtempSync(join(folder, "ea-")), "value")
    this.debugfs(`ea_get -f ${file} "${path}" ${name}`)
    return readFileSync(file)
  }

  bytes(): Buffer {
    return readFileSync(this.path)
  }
}
