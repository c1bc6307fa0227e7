import type { ArrivingImage } from "../arriving-image.js"
import type { ImageDefaults } from "../container/spec.js"
import { SandboxError } from "../errors.js"
import type { OpenedImage } from "../images.js"
import type { RootfsConfig } from "./options.js"

/** What the containers of a sandbox have as their root. */
export type SandboxRoot = ({ readonly kind: "image" } & OpenedImage) | RootfsConfig

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

/** @throws SandboxError `invalid-argument` where nobody knows what a container changed */
export function checkHasChanges(root: SandboxRoot): void {
  if (!isWritten(root)) return
  const what = `the sandbox writes to the ${root.kind} ${root.path} itself`
  throw new SandboxError("invalid-argument", `${what}: what its containers changed is not recorded`)
}
