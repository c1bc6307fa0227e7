import { fromImageError, imageOf } from "../images.js"
import type { SandboxOptions } from "../options.js"
import { openTrustGate } from "../trust.js"
import type { RootConfig, RootfsConfig } from "./options.js"
import type { SandboxRoot } from "./root.js"

/**
 * Finds what a sandbox's options name as its root, if the policy lets it run.
 *
 * @throws SandboxError `image-not-found`, `image-unavailable`, `image-refused`, `image-invalid`, `no-space`, `aborted`
 */
export async function findRoot(
  root: RootConfig,
  options: SandboxOptions,
  imageDir: string,
): Promise<SandboxRoot> {
  if (root.kind === "image") {
    const { kind, device } = root
    return { kind, device, ...(await imageOf(root.image, options, imageDir)) }
  }
  await admitRootfs(root, options.policyFile, imageDir)
  return root
}

async function admitRootfs(
  { kind, path }: RootfsConfig,
  policyFile: string | undefined,
  imageDir: string,
): Promise<void> {
  try {
    const gate = await openTrustGate(imageDir, policyFile)
    gate?.admitRoot(`the ${kind} ${path}`)
  } catch (error) {
    throw fromImageError(error, path)
  }
}
