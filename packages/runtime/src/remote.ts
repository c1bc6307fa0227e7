import type { ContainerChange } from "@ts-vmm/guest"
import type { StoredImage } from "@ts-vmm/oci-image"
import type { CopyInOptions, CopyOutOptions } from "./container/copy.js"
import { signalNumber } from "./container/process.js"
import type { CopySummary } from "./copy/unpack.js"
import type { CpuReport } from "./cpus/sandbox-cpus.js"
import { SandboxError } from "./errors.js"
import type { MemoryChange, MemoryReport } from "./memory/control.js"
import { releaseDead } from "./network/cni/sweep.js"
import { defaultPaths, type RuntimePaths } from "./paths.js"
import { receiveControl, requestControl, sendControl } from "./state/ask-control.js"
import type { CommitRequest, CpuChange } from "./state/control-protocol.js"
import { type FoundSandbox, findSandbox, removeSandbox as removeFolder } from "./state/sandbox-directory.js"

/** How long a killed sandbox may take to remove itself. */
const REMOVE_TIMEOUT_MS = 30_000
/** The same of one that cannot be told yet: how long it may take to start is for who starts it to say. */
const BEGUN_TIMEOUT_MS = 300_000
const POLL_MS = 20

/**
 * Sends a signal to the containers of a sandbox of another process.
 *
 * @param wanted name, id, or the beginning of an id
 * @throws SandboxError `not-found`, `stopped`, `invalid-argument`
 *
 * @example
 * ```ts
 * import { signalSandbox } from "@ts-vmm/runtime"
 *
 * await signalSandbox("web", "SIGTERM")
 * ```
 */
export async function signalSandbox(
  wanted: string,
  signal: string | number,
  paths = defaultPaths(),
): Promise<void> {
  const number = signalNumber(signal)
  const found = runningSandbox(wanted, paths)
  await requestControl(found.path, { op: "signal", signal: number })
}

/**
 * What the container of a sandbox of another process changed of its image: `Container.diff` of the one that was made
 * first and runs. The owner answers; it has to be alive.
 *
 * @param wanted name, id, or the beginning of an id
 * @throws SandboxError `not-found`, `stopped`, `output-too-large`, and what `Container.diff` throws
 *
 * @example
 * ```ts
 * import { diffSandbox } from "@ts-vmm/runtime"
 *
 * for (const { kind, path } of await diffSandbox("web")) console.log(kind, path)
 * ```
 */
export async function diffSandbox(wanted: string, paths = defaultPaths()): Promise<ContainerChange[]> {
  const found = runningSandbox(wanted, paths)
  return (await requestControl(found.path, { op: "diff" })) as ContainerChange[]
}

/**
 * The memory of a sandbox of another process, after a change of it if one is given: `Sandbox.memory`.
 *
 * @param wanted name, id, or the beginning of an id
 * @throws SandboxError `not-found`, `stopped`, and what `SandboxMemory` throws
 *
 * @example
 * ```ts
 * import { sandboxMemory } from "@ts-vmm/runtime"
 *
 * const { usableMiB, statistics } = await sandboxMemory("web", { targetMiB: 256 })
 * ```
 */
export async function sandboxMemory(
  wanted: string,
  change: MemoryChange = {},
  paths = defaultPaths(),
): Promise<MemoryReport> {
  const found = runningSandbox(wanted, paths)
  return (await requestControl(found.path, { op: "memory", options: change })) as MemoryReport
}

/**
 * How many virtual CPUs a sandbox of another process works with, after a change of it if one is given: `Sandbox.cpus`.
 *
 * @param wanted name, id, or the beginning of an id
 * @throws SandboxError `not-found`, `stopped`, and what `SandboxCpus` throws
 *
 * @example
 * ```ts
 * import { sandboxCpus } from "@ts-vmm/runtime"
 *
 * const { online, max } = await sandboxCpus("web", { online: 4 })
 * ```
 */
export async function sandboxCpus(
  wanted: string,
  change: CpuChange = {},
  paths = defaultPaths(),
): Promise<CpuReport> {
  const found = runningSandbox(wanted, paths)
  return (await requestControl(found.path, { op: "cpus", options: change })) as CpuReport
}

/** What {@link commitSandbox} made. */
export type CommittedImage = Pick<StoredImage, "digest" | "configDigest">

/**
 * Makes an image of the container of a sandbox of another process: `Container.commit` of the one that was made first and
 * runs. The owner does it, in its own image store.
 *
 * @param wanted name, id, or the beginning of an id
 * @throws SandboxError `not-found`, `stopped`, and what `Container.commit` throws
 *
 * @example
 * ```ts
 * import { commitSandbox } from "@ts-vmm/runtime"
 *
 * const { digest } = await commitSandbox("web", { name: "web:patched" })
 * ```
 */
export async function commitSandbox(
  wanted: string,
  options: CommitRequest,
  paths = defaultPaths(),
): Promise<CommittedImage> {
  const found = runningSandbox(wanted, paths)
  return (await requestControl(found.path, { op: "commit", options })) as CommittedImage
}

/** What can be said of a copy from outside. */
export type RemoteCopyInOptions = Omit<CopyInOptions, "signal" | "timeoutMs">

/**
 * Copies into the container of a sandbox of another process: `Container.copyIn` of the one that was made first and runs.
 * Files are read here, with the rights of this process.
 *
 * @param wanted name, id, or the beginning of an id
 * @throws SandboxError `not-found`, `stopped`, and what `Container.copyIn` throws
 *
 * @example
 * ```ts
 * import { copyIntoSandbox } from "@ts-vmm/runtime"
 *
 * await copyIntoSandbox("web", "./site", "/srv/www")
 * ```
 */
export async function copyIntoSandbox(
  wanted: string,
  source: string | AsyncIterable<Uint8Array>,
  path: string,
  options: RemoteCopyInOptions = {},
  paths = defaultPaths(),
): Promise<CopySummary> {
  const found = runningSandbox(wanted, paths)
  const { archive = false, followLink = false } = options
  const { prepareCopy } = await import("./copy/source.js")
  const { name, contents, tar } = prepareCopy(source, { followLink })
  const request = { op: "copy-in", options: { path, archive, name, contents } } as const
  return (await sendControl(found.path, request, tar)) as CopySummary
}

/**
 * Copies out of the container of a sandbox of another process: `Container.copyOut` of the one that was made first and
 * runs. It is a guest's word: see {@link unpackCopy}.
 *
 * @param wanted name, id, or the beginning of an id
 * @throws SandboxError `not-found`, `stopped`, and what `Container.copyOut` throws
 *
 * @example
 * ```ts
 * import { copyOutOfSandbox, unpackCopy } from "@ts-vmm/runtime"
 *
 * const path = "/var/log"
 * await unpackCopy(copyOutOfSandbox("web", path), "./logs", { path })
 * ```
 */
export async function* copyOutOfSandbox(
  wanted: string,
  path: string,
  options: Pick<CopyOutOptions, "followLink"> = {},
  paths = defaultPaths(),
): AsyncGenerator<Buffer> {
  const found = runningSandbox(wanted, paths)
  const { followLink = false } = options
  yield* receiveControl(found.path, { op: "copy-out", options: { path, followLink } })
}

/** @throws SandboxError `not-found`, `stopped` */
function runningSandbox(wanted: string, paths: RuntimePaths): FoundSandbox {
  const found = findSandbox(paths.stateDir, wanted)
  if (found.alive) return found
  throw new SandboxError("stopped", `sandbox ${wanted} is not running`)
}

/**
 * Removes what is left of a sandbox that ended, or with `force` ends it first.
 *
 * @throws SandboxError `not-found`; `invalid-argument` for a running one without `force`; `timeout`; `network-failed` when
 *   its network cannot be given back, which keeps it
 */
export async function removeSandbox(
  wanted: string,
  options: { force: boolean },
  paths = defaultPaths(),
): Promise<void> {
  const found = findSandbox(paths.stateDir, wanted)
  if (found.alive && !options.force) {
    throw new SandboxError(
      "invalid-argument",
      `sandbox ${wanted} is running: kill it first, or use force (-f)`,
    )
  }
  if (found.alive) await endOwner(paths.stateDir, found)
  await releaseDead(found)
  removeFolder(paths.stateDir, found.id, found.record?.name)
}

async function endOwner(stateDir: string, found: FoundSandbox): Promise<void> {
  const isGone = () => !isAlive(stateDir, found.id)
  const failed = (verb: string, ms: number) => {
    const owner = `its owner is process ${found.record?.ownerPid}`
    return new SandboxError("timeout", `sandbox ${found.id} did not ${verb} within ${ms} ms; ${owner}`)
  }
  if (!(await until(async () => isGone() || (await tellToEnd(found)), BEGUN_TIMEOUT_MS)))
    throw failed("start", BEGUN_TIMEOUT_MS)
  if (!(await until(isGone, REMOVE_TIMEOUT_MS))) throw failed("end", REMOVE_TIMEOUT_MS)
}

/** @returns false when it has not come true in time */
async function until(condition: () => boolean | Promise<boolean>, ms: number): Promise<boolean> {
  for (const deadline = performance.now() + ms; !(await condition()); ) {
    if (performance.now() > deadline) return false
    await new Promise(resolve => setTimeout(resolve, POLL_MS))
  }
  return true
}

/** @returns false where nobody listens: it has only begun to start, or ends by itself */
async function tellToEnd({ path }: FoundSandbox): Promise<boolean> {
  try {
    await requestControl(path, { op: "kill" })
    return true
  } catch (error) {
    if (error instanceof SandboxError && error.code === "stopped") return false
    throw error
  }
}

function isAlive(stateDir: string, id: string): boolean {
  try {
    return findSandbox(stateDir, id).alive
  } catch {
    return false // it removed its folder itself
  }
}
