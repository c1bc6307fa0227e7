import { deepStrictEqual, ok, strictEqual } from "node:assert"
import { execFileSync } from "node:child_process"
import {
  type BigIntStats,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { useIoRing } from "@ts-vmm/native"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { BUFFERS, DeviceRig } from "./device-rig.js"
import { DAX_RANGES, type FsCase, type FsStep, randomFsCase } from "./fs-cases.js"
import { fuzz, openFds } from "./harness.js"

const NEGOTIATED = { packed: false, indirect: false, eventIdx: false }
/** Where answers go; before it there is room for the longest request. */
const ANSWER = BUFFERS + 0x8000
const MAX_FILES = 16
/** Nobody gives back what a request waits for: the next one comes after this one. */
const LOCK_WAIT_MS = 1
/** An entry of the fd table for each file and handle, /proc, the root, and what the thread pool is at work on. */
const MAX_FDS = 2 * MAX_FILES + 8
const CANARY = "canary"
const ERRNO_MAX = 4095

const isRoot = process.getuid?.() === 0
const memory = DeviceRig.memory()
let root: string
const at = (...names: string[]) => join(root, ...names)

/** Whatever modes the guest gave its folders. */
function removeShared(): void {
  try {
    rmSync(at("shared"), { recursive: true, force: true })
  } catch {
    execFileSync("chmod", ["-R", "u+rwx", at("shared")])
    rmSync(at("shared"), { recursive: true, force: true })
  }
}

/** A folder with one of everything that is left of the last case. */
function prepare(): void {
  removeShared()
  mkdirSync(at("shared", "d"), { recursive: true })
  writeFileSync(at("shared", "f"), "0123456789")
  writeFileSync(at("shared", "d", "a"), "text")
  symlinkSync("../outside/canary", at("shared", "l"))
  symlinkSync("../outside", at("shared", "p"))
  // A file that is read has another time of access after this one.
  for (const path of [at("outside", "canary"), at("outside")]) utimesSync(path, 1, 1)
}

const factsOf = ({ ino, mode, nlink, uid, gid, size, atimeNs, mtimeNs }: BigIntStats) =>
  [ino, mode, nlink, uid, gid, size, atimeNs, mtimeNs].join(" ")

/** All there is to know of what lies outside. */
function outside(): string[] {
  return ["outside", "outside/canary"].map(name => factsOf(lstatSync(at(name), { bigint: true })))
}

/** Names, kinds, sizes and contents of what is shared. */
function contents(folder = at("shared")): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap(entry => {
    const path = join(folder, entry.name)
    const { mode, uid, size, mtimeNs } = lstatSync(path, { bigint: true })
    const line = `${path} ${mode} ${uid} ${size} ${mtimeNs}`
    return entry.isDirectory() ? [line, ...contents(path)] : [line]
  })
}

async function perform(rig: DeviceRig, step: Extract<FsStep, { do: "request" }>): Promise<void> {
  const { queue, message, room } = step
  if (message.length === 0) return
  const pieces = [
    { at: BUFFERS, length: message.length, writable: false, bytes: message },
    { at: ANSWER, length: room, writable: true, bytes: new Uint8Array() },
  ]
  rig.post(queue, room > 0 ? pieces : pieces.slice(0, 1))
  rig.kick(queue)
  const { length } = await rig.used(queue)
  rig.checkFault()
  if (length === 0) return
  const answer = Buffer.from(rig.read(ANSWER, length))
  ok(length >= 16 && length <= room, "an answer of an impossible length")
  strictEqual(answer.readUInt32LE(0), length, "length in the answer")
  deepStrictEqual(answer.subarray(8, 16), Buffer.from(message.subarray(8, 16)), "whose answer it is")
  const error = answer.readInt32LE(4)
  ok(error <= 0 && error >= -ERRNO_MAX, `error ${error}`)
  ok(error === 0 || length === 16, "an error with a body")
}

/** An honest guest after all that. */
async function probe(rig: DeviceRig): Promise<void> {
  rig.start(NEGOTIATED)
  const init = Buffer.alloc(104)
  for (const [index, value] of [104, 26].entries()) init.writeUInt32LE(value, index * 4)
  for (const [index, value] of [7, 38, 0, 0].entries()) init.writeUInt32LE(value, 40 + index * 4)
  await perform(rig, { do: "request", queue: 1, message: init, room: 80 })
  strictEqual(Buffer.from(rig.read(ANSWER, 20)).readUInt32LE(16), 7, "INIT")
}

fuzz<FsCase>({
  name: "fs",
  covers: ["packages/virtio-devices/src/fs"],
  share: 0.06,
  minimum: 200,
  setUp() {
    // Made at the first transfer that waits for a disk, and kept: not a case's.
    useIoRing(true)
    root = mkdtempSync(join(tmpdir(), "tsvmm-fuzz-fs-"))
    mkdirSync(at("outside"))
    writeFileSync(at("outside", "canary"), CANARY)
  },
  tearDown() {
    removeShared()
    rmSync(root, { recursive: true })
  },
  generate: randomFsCase,
  async run({ steps, single, squash, acl = false, dax = false, ...options }) {
    prepare()
    const [before, shared, fds] = [outside(), options.readOnly ? contents() : [], openFds()]
    const owners = squash ? { owners: "squash" as const } : {}
    const device = new FsDevice(single ? at("shared", "f") : at("shared"), {
      ...{
        tag: "fuzz",
        maxFiles: MAX_FILES,
        lockWaitMs: LOCK_WAIT_MS,
        acl: acl && isRoot,
        ...options,
        ...owners,
        ...(dax ? { dax: { size: DAX_RANGES * 2 ** 21 } } : {}),
      },
    })
    device.deviceMemory?.placedAt(2 ** 32)
    const rig = new DeviceRig(device, memory)
    try {
      rig.start(NEGOTIATED)
      for (const step of steps) {
        if (step.do === "request") await perform(rig, step)
        else rig.start(NEGOTIATED)
      }
      // Each lock may be another owner's, who has an fd.
      ok(openFds() <= fds + MAX_FDS + (options.locks ? steps.length : 0), "more fds than the guest may have")
      await probe(rig)
    } finally {
      rig.runtime.reset()
      await device.idle()
      strictEqual(device.mappedRanges, 0, "what is mapped after a reset")
      device.close()
    }
    strictEqual(openFds(), fds, "fds that stay open")
    deepStrictEqual(outside(), before, "something outside was changed or read")
    strictEqual(readFileSync(at("outside", "canary"), "utf8"), CANARY)
    if (options.readOnly) deepStrictEqual(contents(), shared, "a read-only folder was changed")
    if (single) deepStrictEqual(readdirSync(at("shared")).sort(), ["d", "f", "l", "p"])
  },
})
