import type { ArrivingImage } from "../arriving-image.js"
import type { ImageDefaults } from "../container/spec.js"
import { SandboxError } from "../errors.js"
import type { OpenedImage } from "../images.js"
import type { ImageDevice, RootfsConfig } from "./options.js"

/** The guest's name for an image that is memory: it has no other of that kind. */
export const ROOT_PMEM = "/dev/pmem0"

/** What the containers of a sandbox have as their root. */
export type SandboxRoot =
  | ({ readonly kind: "image"; readonly device: ImageDevice } & OpenedImage)
  | RootfsConfig

/** An image that is on its way. */
export function arrivingOf(root: SandboxRoot): ArrivingImage | undefined {
  return root.kind === "image" ? root.arriving : undefined
}

/** Gives a root to whoever `make` makes; when that fails nothing is left of an image that is on its way. */
export async function giveRoot<T>(root: SandboxRoot, make: () => T): Promise<T> {
  try {
    return make()
  } catch (error) {
    await arrivingOf(root)?.[Symbol.asyncDispose]()
    throw error
  }
}

/** How to run what says nothing about that. */
const NO_DEFAULTS: ImageDefaults = { env: [], entrypoint: [], cmd: ["/bin/sh"], workingDir: "", user: "" }

/** What programs start from. */
export function rootDefaults(root: SandboxRoot): ImageDefaults {
  return root.kind === "image" ? root.image.config : NO_DEFAULTS
}

/** Whether containers write to the root itself, and not to a top over it. */
export function isWritten(root: SandboxRoot): root is RootfsConfig {
  return root.kind !== "image" && root.writable
}

/** What is to be told of a guest's refusal to mount a root; errors that have nothing to do with it pass. */
export function fromMountError(root: SandboxRoot, error: unknown): unknown {
  const message = error instanceof SandboxError ? mountMessage(root, error.message) : undefined
  return message === undefined ? error : new SandboxError("invalid-argument", message, { cause: error })
}

function mountMessage(root: SandboxRoot, told: string): string | undefined {
  if (root.kind === "image" && root.device === "pmem" && told.includes(ROOT_PMEM))
    return `the image cannot be the guest's memory: its kernel needs virtio-pmem, and EROFS with DAX (${told})`
  if (root.kind !== "disk" || !told.includes("mount ext4")) return undefined
  const hint = "it must be one ext4 file system, without partitions"
  const unclean = "; if it was not unmounted, start it once with writable (:rw), or repair it with e2fsck"
  return `the disk ${root.path} cannot be mounted: ${hint}${root.writable ? "" : unclean} (${told})`
}

/** @throws SandboxError `invalid-argument` where nobody knows what a container changed */
export function checkHasChanges(root: SandboxRoot): void {
  if (!isWritten(root)) return
  const what = `the sandbox writes to the ${root.kind} ${root.path} itself`
  throw new SandboxError("invalid-argument", `${what}: what its containers changed is not recorded`)
}

/** How people call the root: as they named it. @param given the image as it was asked for */
export function rootName(root: SandboxRoot, given: unknown): string {
  if (root.kind !== "image") return root.path
  return typeof given === "string" ? given : root.image.digest
}
