import { type CommitOptions, type Digest, ImageStore, type StoredImage } from "@ts-vmm/oci-image"
import type { WaitOptions } from "../deadline.js"
import { SandboxError } from "../errors.js"
import { fromGuestError } from "../guest-errors.js"
import { fromImageError } from "../images.js"
import type { SandboxRoot } from "../root/root.js"
import { streamFromAgent } from "./agent-stream.js"
import type { ContainerHost } from "./container.js"

/** Options of `Container.commit`. */
export interface ContainerCommitOptions extends CommitOptions, WaitOptions {
  /** Stops the container's programs meanwhile, so that no file is half of what it was. Default true. */
  readonly pause?: boolean
}

/** What a container changed as one more layer of its image. @see Container.commit */
export async function commitContainer(
  host: ContainerHost,
  containerId: string,
  options: ContainerCommitOptions,
): Promise<StoredImage> {
  const { pause = true, timeoutMs, ...about } = options
  const base = baseOf(host.root)
  const signals = [options.signal, timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs)]
  const signal = AbortSignal.any(signals.filter(one => one !== undefined))
  const resume = async () => {
    if (pause) await host.agent.resumeContainer({ containerId })
  }
  try {
    if (pause) await host.agent.pauseContainer({ containerId }, { signal })
    const image = await commit(host, base, containerId, { ...about, signal }).catch(async error => {
      await resume().catch(() => undefined) // the container may be gone, and the first error says why
      throw error
    })
    await resume()
    return image
  } catch (error) {
    if (signal.aborted && !options.signal?.aborted)
      throw new SandboxError("timeout", `the commit took longer than ${timeoutMs} ms`, { cause: error })
    if (signal.aborted) throw new SandboxError("aborted", "the commit was aborted", { cause: error })
    throw fromGuestError(error)
  }
}

async function commit(
  { agent, vsock, imageDir }: ContainerHost,
  base: Digest,
  containerId: string,
  options: CommitOptions,
): Promise<StoredImage> {
  const { signal } = options
  const layer = streamFromAgent(vsock, port =>
    agent.packChanges({ containerId, port }, signal ? { signal } : {}),
  )
  try {
    const store = await ImageStore.open(imageDir)
    return await store.commit(base, layer, options)
  } catch (error) {
    throw fromImageError(error, options.name ?? base)
  }
}

/** @throws SandboxError `image-not-found` */
function baseOf(root: SandboxRoot): Digest {
  if (root.kind === "image") return root.image.digest
  const what = `the sandbox's root is the ${root.kind} ${root.path}, and no image that a layer could be added to`
  throw new SandboxError("image-not-found", `${what}: import what copyOut("/") gives`)
}
