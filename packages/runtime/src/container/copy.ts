import { type PreparedCopy, prepareCopy } from "../copy/source.js"
import type { CopySummary } from "../copy/unpack.js"
import { pickWait, type WaitOptions } from "../deadline.js"
import { fromGuestError } from "../guest-errors.js"
import { streamToAgent } from "./agent-stream.js"
import type { ContainerHost } from "./container.js"

/** Options of `Container.copyIn`. */
export interface CopyInOptions extends WaitOptions {
  /** Owners are those of the source. Default: everything belongs to root. */
  readonly archive?: boolean
  /** A source that is a symbolic link: what it leads to is copied, under the link's name. */
  readonly followLink?: boolean
}

/** Options of `Container.copyOut`. */
export interface CopyOutOptions extends WaitOptions {
  /** A path that ends in a symbolic link: what that leads to is copied, under the link's name. */
  readonly followLink?: boolean
}

/** What is sent for the agent to unpack. */
export interface SendRequest extends WaitOptions {
  readonly copy: PreparedCopy
  /** In the container. */
  readonly path: string
  readonly archive: boolean
}

/** @see Container.copyIn */
export function copyIntoContainer(
  host: ContainerHost,
  containerId: string,
  source: string | AsyncIterable<Uint8Array> | PreparedCopy,
  path: string,
  options: CopyInOptions,
): Promise<CopySummary> {
  const { archive = false, ...rest } = options
  const isPrepared = typeof source === "object" && "tar" in source
  const copy = isPrepared ? source : prepareCopy(source, rest)
  return send(host, containerId, { copy, path, archive, ...pickWait(options) })
}

async function send(
  { agent, vsock }: ContainerHost,
  containerId: string,
  { copy, path, archive, ...wait }: SendRequest,
): Promise<CopySummary> {
  const { name, contents, tar } = copy
  const request = { containerId, path, name, contents, keepOwner: archive }
  try {
    const bytes = await streamToAgent(vsock, port => agent.unpackFiles({ ...request, port }, wait), tar)
    return { bytes }
  } catch (error) {
    throw fromGuestError(error)
  }
}
