import { constants } from "node:os"
import type { DaxWindow } from "./dax-window.js"
import { DirectoryReader } from "./directory-reader.js"
import { HandleTable } from "./handle-table.js"
import { S_IFDIR } from "./host-abi.js"
import {
  type FoundFile,
  type Identity,
  type Inode,
  InodeTable,
  type KnownFile,
  type NameIn,
} from "./inode-table.js"
import { LockTable } from "./lock-table.js"
import { LockWaiters } from "./lock-waiters.js"
import type { Creator } from "./new-file.js"
import * as fuse from "./protocol.js"
import type { FuseReply } from "./reply.js"
import type { FuseRequest } from "./request.js"
import type { SharedFolder } from "./shared-folder.js"

const { EMFILE } = constants.errno

/** How long a guest may believe what it was told. */
export type FsCacheMode = "none" | "auto" | "always"

/** What a session goes by. */
export interface FuseOptions {
  readonly cache: FsCacheMode
  /** The guest may keep writes to itself for a while. */
  readonly writeback: boolean
  /** Most files that the guest knows, and most that it has open. */
  readonly maxFiles: number
  /** Access lists of the host count, and can be changed. */
  readonly acl: boolean
  /** Locks are the host's. */
  readonly locks: boolean
  /** Longest wait for one. */
  readonly lockWaitMs: number
  /** Where the guest can have files mapped. */
  readonly window: DaxWindow | undefined
}

/** What INIT agreed on. */
export interface Agreement {
  readonly submounts: boolean
  readonly writeback: boolean
  readonly acl: boolean
  readonly locks: boolean
  readonly dax: boolean
}

/** Where the arguments of a request start. */
export const ARGS = fuse.IN_HEADER_SIZE

/** Carries a request out. @returns bytes of the answer's body, a negative errno, or {@link NO_REPLY} */
export type Run = (session: FuseSession, request: FuseRequest) => number

/** What a request has to be before it is carried out. */
export interface Operation {
  /** Least bytes of its arguments. */
  readonly least: number
  /** Refused where the folder is read-only. */
  readonly writes: boolean
  readonly run: Run
}

export const reads = (least: number, run: Run): Operation => ({ least, run, writes: false })
export const writes = (least: number, run: Run): Operation => ({ least, run, writes: true })

/** Files that are held although nobody works on them: what a guest comes back to soon, for a small part of the fds that a process has. */
const MAX_HELD = 4096
const MAX_HELD_WHEN_SHORT = 64

/** For requests without an answer. */
export const NO_REPLY = Number.NEGATIVE_INFINITY

const VALID_SECONDS: Readonly<Record<FsCacheMode, number>> = { none: 0, auto: 1, always: 86_400 }

/** What a guest knows of a folder and has open in it, and how it is told. */
export class FuseSession {
  readonly folder: SharedFolder
  readonly reply: FuseReply
  readonly options: FuseOptions
  readonly inodes: InodeTable
  readonly handles: HandleTable
  readonly directories: DirectoryReader
  readonly locks: LockTable
  readonly lockWaiters: LockWaiters
  /** Undefined until INIT. */
  agreed: Agreement | undefined

  constructor(folder: SharedFolder, reply: FuseReply, options: FuseOptions) {
    this.folder = folder
    this.reply = reply
    this.options = options
    this.locks = new LockTable(folder)
    this.lockWaiters = new LockWaiters(options.lockWaitMs)
    this.inodes = new InodeTable(
      folder.root,
      options.maxFiles,
      { find: (parent, name) => folder.lookup(parent, name), findOpen: node => this.#findOpen(node) },
      node => {
        this.locks.forget(node)
        this.options.window?.forget(node)
      },
    )
    this.handles = new HandleTable(options.maxFiles)
    this.directories = new DirectoryReader(folder, reply)
  }

  #findOpen(node: number): FoundFile | number | undefined {
    const handle = this.handles.ofNode(node)
    return handle && this.folder.holdOpen(handle.fd)
  }

  /** The DAX window, where the guest knows of it. */
  get window(): DaxWindow | undefined {
    return this.agreed?.dax ? this.options.window : undefined
  }

  /** Nothing of what the guest knew, had open or had mapped is kept. */
  reset(): void {
    this.agreed = undefined
    this.options.window?.clear()
    this.lockWaiters.clear()
    this.locks.clear()
    this.handles.clear()
    this.inodes.clear()
  }

  /** Whoever sent a request that makes a file. @param umaskAt - where the request has its mask */
  creator(request: FuseRequest, umaskAt: number): Creator {
    if (this.agreed?.acl !== true) return request
    return { uid: request.uid, gid: request.gid, umask: request.u32(umaskAt) & 0o777 }
  }

  /** Looks a name up and answers with its entry. */
  entry(parent: Inode, name: Uint8Array): number {
    const inode = this.lookUp(parent, name)
    return typeof inode === "number" ? inode : this.writeEntry(parent, inode, 0)
  }

  /** The file of a name, one lookup more, and `folder.statx` its own; or a negative errno. */
  lookUp(parent: Inode, name: Uint8Array): KnownFile | number {
    return this.note(this.folder.identify(parent, name), parent, name)
  }

  /** Takes a file that was seen under a name into the table; an errno goes through. */
  note(seen: Identity | number, parent: Inode, name: Uint8Array): KnownFile | number {
    return typeof seen === "number" ? seen : (this.inodes.note(seen, parent, name) ?? -EMFILE)
  }

  /** Takes a file that was found into the table, held; an errno goes through. */
  remember(found: FoundFile | number, name?: NameIn): Inode | number {
    return typeof found === "number" ? found : (this.inodes.remember(found, name) ?? -EMFILE)
  }

  /** Between requests: fds of files that were not used lately are given back. */
  trim(): void {
    this.inodes.trim(this.folder.isShortOfFds ? MAX_HELD_WHEN_SHORT : MAX_HELD)
  }

  /** struct fuse_entry_out at `offset`, of the file that `folder.statx` is of. @returns its size */
  writeEntry(parent: Inode, inode: KnownFile, offset: number): number {
    const valid = VALID_SECONDS[this.options.cache]
    const isMount = this.agreed?.submounts && inode.type === S_IFDIR && inode.device !== parent.device
    this.reply.bytes.fill(0, offset, offset + 40)
    this.reply.u64(offset, inode.id)
    this.reply.u64(offset + 16, valid)
    this.reply.u64(offset + 24, valid)
    this.reply.attributes(
      offset + 40,
      this.folder.statx,
      this.folder.owners,
      isMount ? fuse.FUSE_ATTR_SUBMOUNT : 0,
    )
    return fuse.ENTRY_OUT_SIZE
  }

  /** struct fuse_attr_out. */
  writeAttributes(inode: Inode): number {
    const result = this.folder.stat(inode)
    if (result < 0) return result
    this.reply.begin(16)
    this.reply.u64(0, VALID_SECONDS[this.options.cache])
    this.reply.attributes(16, this.folder.statx, this.folder.owners, 0)
    return fuse.ATTR_OUT_SIZE
  }
}
