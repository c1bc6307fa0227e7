import {
  type BigIntStats,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { VirtioDevice } from "../device.js"
import { direct } from "../testing/direct.js"
import type { FrontDoor } from "../testing/front-door.js"
import { MockDriver, type MockDriverOptions } from "../testing/mock-driver.js"
import { FsDevice, type FsDeviceOptions } from "./device.js"
import { FuseDriver } from "./testing.js"

const CANARY = "nobody in the guest may know this\n"
/** Long enough ago that reading the file would change its time of access, also where that is rarely written down. */
const LONG_AGO = new Date("2001-01-01")

/** Where a DAX window is in the guest's address space. */
export const WINDOW_START = 5 * 2 ** 30

/** A device whose folder is shared, and a guest that uses it. */
export interface Attached {
  readonly device: FsDevice
  readonly driver: MockDriver
  readonly fs: FuseDriver
}

/** A folder to share, with one beside it that no guest may reach: tests ask whether anything there was changed or read. */
export class ShareUnderTest {
  readonly root: string
  /** The folder to share. */
  readonly shared: string
  /** The folder that is not. */
  readonly outside: string
  readonly canary: string
  readonly #closers: (() => Promise<void> | void)[] = []
  readonly #before: string

  /** @param root - a folder to make it in */
  constructor(root = mkdtempSync(join(tmpdir(), "tsvmm-fs-"))) {
    this.root = root
    this.shared = join(root, "shared")
    this.outside = join(root, "outside")
    this.canary = join(this.outside, "canary")
    mkdirSync(this.shared)
    mkdirSync(this.outside)
    writeFileSync(this.canary, CANARY, { mode: 0o600 })
    for (const path of [this.canary, this.outside]) utimesSync(path, LONG_AGO, LONG_AGO)
    this.#before = this.#outsideNow()
  }

  /** Makes files of the shared folder, by name. */
  put(files: Readonly<Record<string, string>>): void {
    for (const [name, text] of Object.entries(files)) writeFileSync(join(this.shared, name), text)
  }

  /** The path of what is shared under a name. */
  path(...names: readonly string[]): string {
    return join(this.shared, ...names)
  }

  device(options: Partial<FsDeviceOptions> = {}, path = this.shared): FsDevice {
    const device = new FsDevice(path, { tag: "share", ...options })
    this.#closers.push(() => device.close())
    return device
  }

  /** A driver that has agreed on a session, with a DAX window if the device has one, unless `init` is false. */
  async attach(
    options: Partial<FsDeviceOptions> & { path?: string; init?: boolean } = {},
    over: FrontDoor = direct,
    driverOptions: MockDriverOptions = {},
  ): Promise<Attached> {
    const { path, init = true, ...own } = options
    const device = this.device(own, path)
    const driver = await this.drive(device, over, driverOptions)
    const fs = new FuseDriver(driver)
    if (init) {
      device.deviceMemory?.placedAt(WINDOW_START)
      await fs.init()
    }
    return { device, driver, fs }
  }

  async drive(device: VirtioDevice, over: FrontDoor, options: MockDriverOptions): Promise<MockDriver> {
    const driver = await MockDriver.attach(device, over, options)
    this.#closers.push(() => driver[Symbol.asyncDispose]())
    return driver
  }

  /** @throws Error when something outside was changed or read */
  checkOutside(): void {
    const now = this.#outsideNow()
    if (now !== this.#before) throw new Error(`outside changed: ${this.#before} became ${now}`)
    if (readFileSync(this.canary, "utf8") !== CANARY) throw new Error("the canary was written")
    utimesSync(this.canary, LONG_AGO, LONG_AGO)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const close of this.#closers.splice(0).reverse()) await close()
    rmSync(this.root, { recursive: true, force: true })
  }

  #outsideNow(): string {
    // Listing it would count as an access of its own.
    const stats = [this.canary, this.outside].map(path => describe(lstatSync(path, { bigint: true })))
    const names = readdirSync(this.outside)
    utimesSync(this.outside, LONG_AGO, LONG_AGO)
    return JSON.stringify([stats, names])
  }
}

/** All but the time of change, which putting the other times back changes. */
function describe(stat: BigIntStats): string {
  const { ino, mode, nlink, uid, gid, size, atimeNs, mtimeNs } = stat
  return [ino, mode, nlink, uid, gid, size, atimeNs, mtimeNs].join(" ")
}
