import { join, mutate, type Random } from "./random.js"

/** What the guest and its transport do in turn. */
export type FsStep =
  | {
      readonly do: "request"
      readonly queue: number
      /** A whole message, its header included. */
      readonly message: Uint8Array
      /** Bytes for the answer. */
      readonly room: number
    }
  | { readonly do: "reset" }

/** One life of a device. */
export interface FsCase {
  readonly readOnly: boolean
  readonly cache: "none" | "auto" | "always"
  readonly writeback: boolean
  readonly squash: boolean
  /** Locks and access lists are the host's. */
  readonly locks?: boolean
  readonly acl?: boolean
  /** There is a DAX window. */
  readonly dax?: boolean
  /** Only the file `f` is shared. */
  readonly single: boolean
  readonly steps: readonly FsStep[]
}

/** FUSE opcodes by what follows the header (include/uapi/linux/fuse.h). */
const OP = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  readlink: 5,
  symlink: 6,
  mknod: 8,
  mkdir: 9,
  unlink: 10,
  rmdir: 11,
  rename: 12,
  link: 13,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  setxattr: 21,
  getxattr: 22,
  listxattr: 23,
  removexattr: 24,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  fsyncdir: 30,
  getlk: 31,
  setlk: 32,
  setlkw: 33,
  create: 35,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
  fallocate: 43,
  readdirplus: 44,
  rename2: 45,
  lseek: 46,
  copyFileRange: 47,
  setupMapping: 48,
  removeMapping: 49,
  tmpfile: 51,
} as const
const HEADER_SIZE = 40
/** Of a window: 2 MiB each. */
export const DAX_RANGES = 4
const ROOMS = [0, 1, 15, 16, 24, 32, 80, 104, 120, 144, 160, 176, 4096, 4096, 20_000] as const
/** What is shared, what is beside it, and what is neither. */
const NAMES = [
  "f",
  "f",
  "d",
  "d",
  "l",
  "p",
  "new",
  "new",
  "a",
  "canary",
  ".",
  "..",
  "",
  "../outside/canary",
  "/etc/passwd",
  "x".repeat(256),
]
const O_FLAGS = [
  0, 1, 2, 2, 2, 3, 0o1002, 0o2001, 0o200, 0o202, 0o1000000, 0o4010002, 0o40000, 0o100000, 0o20200002,
]
const XATTRS = [
  "user.a",
  "user.virtiofs.a",
  "security.capability",
  "trusted.a",
  "system.posix_acl_access",
  "system.posix_acl_default",
  "user.",
  "",
]

/** struct posix_acl_xattr: owner, user 1000, group, mask, others. */
const ACCESS_LIST = fields(
  ...[2, 0x0007_0001, 0xffff_ffff, 0x0006_0002, 1000, 0x0005_0004, 0xffff_ffff],
  ...[0x0007_0010, 0xffff_ffff, 0x0000_0020, 0xffff_ffff],
)

/** A node and a handle on it, as they are numbered after {@link opening}. */
interface Opened {
  readonly node: bigint
  readonly handle: bigint
}
const FILE: Opened = { node: 2n, handle: 1n }
const ROOT: Opened = { node: 1n, handle: 2n }
const NEW: Opened = { node: 3n, handle: 3n }

/** A session: INIT and something to work on, as a rule, and requests of any kind. */
export function randomFsCase(random: Random): FsCase {
  const steps = random.list(random.between(1, 40), () => randomStep(random))
  const squash = random.oneIn(4)
  return {
    readOnly: random.oneIn(4),
    cache: random.pick(["none", "auto", "always"]),
    writeback: random.oneIn(3),
    squash,
    locks: random.oneIn(2),
    acl: !squash && random.oneIn(2),
    dax: random.oneIn(2),
    single: random.oneIn(5),
    steps: random.oneIn(12) ? steps : [...opening(random), ...steps],
  }
}

/** INIT, a file and the folder opened, a file made. */
function opening(random: Random): FsStep[] {
  const requests: [number, bigint, Uint8Array][] = [
    [OP.init, 0n, fields(7, 38, 0, 0xffff_ffff)],
    [OP.lookup, 1n, fields("f")],
    [OP.open, FILE.node, fields(random.pick([0, 2, 2, 2]), 0)],
    [OP.opendir, 1n, fields(0, 0)],
    [OP.create, 1n, fields(2, 0o100644, 0, 0, "new")],
  ]
  return requests.map(([opcode, node, rest], index) => {
    const header = fields(HEADER_SIZE + rest.length, opcode, BigInt(index), node, 0, 0, 0, 0)
    return { do: "request", queue: 1, message: join(header, rest), room: 20_000 }
  })
}

function randomStep(random: Random): FsStep {
  if (random.oneIn(60)) return { do: "reset" }
  const opcode = random.oneIn(40) ? random.edge() : random.pick(Object.values(OP))
  if (opcode === OP.destroy && !random.oneIn(8)) return randomStep(random)
  const opened = random.oneIn(5) ? { node: nodeId(random), handle: number(random) } : workedOn(random, opcode)
  const whole = message(random, opcode, opened.node, body(random, opcode, opened))
  // What FALLOCATE is asked for by accident the host's disk might have.
  const isSpoiled = opcode !== OP.fallocate && random.oneIn(6)
  return {
    do: "request",
    queue: random.oneIn(8) ? 0 : 1,
    message: isSpoiled ? mutate(random, whole) : whole,
    room: random.oneIn(3) ? random.pick(ROOMS) : 20_000,
  }
}

/** What there is for a request to work on. */
function workedOn(random: Random, opcode: number): Opened {
  const directory: number[] = [OP.readdir, OP.readdirplus, OP.fsyncdir, OP.opendir]
  if (directory.includes(opcode)) return ROOT
  const names: number[] = [
    OP.lookup,
    OP.mkdir,
    OP.mknod,
    OP.symlink,
    OP.link,
    OP.unlink,
    OP.rmdir,
    OP.rename,
    OP.rename2,
  ]
  if (names.includes(opcode) || opcode === OP.create || opcode === OP.tmpfile) return ROOT
  return random.pick([FILE, FILE, NEW])
}

function message(random: Random, opcode: number, node: bigint | number, rest: Uint8Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(HEADER_SIZE))
  view.setUint32(0, random.oneIn(30) ? random.edge() : HEADER_SIZE + rest.length, true)
  view.setUint32(4, opcode, true)
  view.setBigUint64(8, random.edge64(), true)
  view.setBigUint64(16, BigInt(node), true)
  view.setUint32(24, owner(random), true)
  view.setUint32(28, owner(random), true)
  return join(new Uint8Array(view.buffer), rest)
}

/** Small numbers are those of nodes and handles that there are. */
const number = (random: Random) => (random.oneIn(10) ? random.edge64() : BigInt(random.below(7)))
const nodeId = (random: Random) => (random.oneIn(2) ? 1n : number(random))
const owner = (random: Random) => (random.oneIn(4) ? random.edge() : random.pick([0, 0, 1000]))
const size = (random: Random) => (random.oneIn(4) ? random.edge() : random.below(5000))
const position = (random: Random) => (random.oneIn(4) ? random.edge64() : BigInt(random.below(5000)))

/** Fields, one behind the other: a number is of 32 bits, a bigint of 64, a text has its NUL. */
function fields(...parts: readonly (number | bigint | string | Uint8Array)[]): Uint8Array {
  return join(
    ...parts.map(part => {
      if (part instanceof Uint8Array) return part
      if (typeof part === "string") return new Uint8Array(Buffer.from(`${part}\0`, "latin1"))
      const view = new DataView(new ArrayBuffer(typeof part === "bigint" ? 8 : 4))
      if (typeof part === "bigint") view.setBigUint64(0, BigInt.asUintN(64, part), true)
      else view.setUint32(0, part, true)
      return new Uint8Array(view.buffer)
    }),
  )
}

const initBody = (random: Random) =>
  fields(
    random.oneIn(20) ? random.edge() : 7,
    random.oneIn(20) ? random.edge() : 38,
    random.edge(),
    0xffff_ffff,
  )

function name(random: Random): string {
  return random.oneIn(20)
    ? Buffer.from(random.bytes(random.below(300))).toString("latin1")
    : random.pick(NAMES)
}

/** Arguments as the opcode has them. */
function body(random: Random, opcode: number, { node, handle }: Opened): Uint8Array {
  switch (opcode) {
    case OP.init:
      return initBody(random)
    case OP.lookup:
    case OP.unlink:
    case OP.rmdir:
      return fields(name(random))
    case OP.forget:
      return fields(number(random))
    case OP.batchForget:
      return fields(
        random.oneIn(4) ? random.edge() : 2,
        0,
        number(random),
        number(random),
        number(random),
        1n,
      )
    case OP.setattr:
      return setattr(random, handle)
    case OP.symlink:
      return fields(name(random), name(random))
    case OP.mknod:
      return fields(
        random.pick([0o100644, 0o010644, 0o140755, 0o020666, 0o060666, random.edge()]),
        random.edge(),
        0,
        0,
        name(random),
      )
    case OP.mkdir:
      return fields(random.oneIn(4) ? random.edge() : 0o755, 0, name(random))
    case OP.rename:
      return fields(nodeId(random), name(random), name(random))
    case OP.rename2:
      return fields(
        nodeId(random),
        random.oneIn(6) ? random.edge() : random.below(4),
        0,
        name(random),
        name(random),
      )
    case OP.link:
      return fields(number(random), name(random))
    case OP.open:
    case OP.opendir:
      return fields(openFlags(random), 0)
    case OP.create:
    case OP.tmpfile:
      return fields(openFlags(random), random.oneIn(4) ? random.edge() : 0o100644, 0, 0, name(random))
    case OP.read:
    case OP.readdir:
    case OP.readdirplus:
      return fields(handle, position(random), size(random), 0, 0n, 0, 0)
    case OP.write:
      return write(random, handle)
    case OP.fallocate:
      return fields(
        handle,
        position(random),
        random.pick([0n, 1n, 4096n, 1n << 20n, 1n << 53n, 1n << 63n]),
        random.oneIn(3) ? random.edge() : 1,
        0,
      )
    case OP.lseek:
      return fields(handle, position(random), random.oneIn(6) ? random.edge() : random.below(6), 0)
    case OP.copyFileRange:
      return fields(handle, position(random), node, handle, position(random), position(random), 0n)
    case OP.setupMapping:
      return setupMapping(random, handle)
    case OP.removeMapping:
      return removeMapping(random)
    case OP.setxattr:
      return setxattr(random)
    case OP.getlk:
    case OP.setlk:
    case OP.setlkw:
      return lock(random, handle)
    case OP.flush:
      return fields(handle, 0, 0, lockOwner(random))
    case OP.getxattr:
      return fields(size(random), 0, random.pick(XATTRS))
    case OP.removexattr:
      return fields(random.pick(XATTRS))
    default:
      // A handle, or a size, and what follows it.
      return fields(handle, size(random), random.edge(), 0n)
  }
}

function openFlags(random: Random): number {
  return random.oneIn(8) ? random.edge() : random.pick(O_FLAGS)
}

function setattr(random: Random, handle: bigint): Uint8Array {
  const valid = random.oneIn(4) ? random.edge() : 1 << random.below(9)
  const times = [position(random), position(random), position(random)]
  const rest = [size(random), size(random), 0, openFlags(random), 0, owner(random), owner(random), 0]
  return fields(valid, 0, handle, position(random), 0n, ...times, ...rest)
}

function write(random: Random, handle: bigint): Uint8Array {
  const data = random.bytes(random.pick([0, 1, 100, 4096]))
  return fields(handle, position(random), random.oneIn(8) ? random.edge() : data.length, 0, 0n, 0, 0, data)
}

function setxattr(random: Random): Uint8Array {
  const value = random.oneIn(3) ? ACCESS_LIST : random.bytes(random.pick([0, 1, 100, 3000]))
  const size = random.oneIn(8) ? random.edge() : value.length
  // With access lists there are two fields more.
  const more = random.oneIn(2) ? fields(random.below(4), 0) : fields()
  return fields(size, random.below(3), more, random.pick(XATTRS), value)
}

const lockOwner = (random: Random) => (random.oneIn(10) ? random.edge64() : BigInt(random.below(3)))

function lock(random: Random, handle: bigint): Uint8Array {
  const [one, other] = [position(random), position(random)]
  const [start, end] = one <= other || random.oneIn(8) ? [one, other] : [other, one]
  const type = random.oneIn(10) ? random.edge() : random.below(3)
  return fields(handle, lockOwner(random), start, end, type, 0, random.oneIn(3) ? 1 : 0, 0)
}

/** Of a DAX window, or of a file: whole ranges of 2 MiB, near its ends or beyond, or any number. */
const rangePosition = (random: Random) =>
  random.oneIn(8) ? random.edge64() : BigInt(random.below(DAX_RANGES + 2)) << 21n

function setupMapping(random: Random, handle: bigint): Uint8Array {
  const flags = random.oneIn(8) ? random.edge64() : BigInt(random.below(4))
  const by = random.oneIn(3) ? handle : (1n << 64n) - 1n
  return fields(by, rangePosition(random), rangePosition(random), flags, rangePosition(random))
}

function removeMapping(random: Random): Uint8Array {
  const ranges = random.list(random.below(4), () => fields(rangePosition(random), rangePosition(random)))
  return fields(random.oneIn(6) ? random.edge() : ranges.length, ...ranges)
}
