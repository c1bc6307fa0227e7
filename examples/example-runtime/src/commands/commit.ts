import { commitSandbox } from "@ts-vmm/runtime"
import { parseChanges } from "../changes.js"

interface CommitOptions {
  readonly change: readonly string[]
  readonly message?: string
  readonly author?: string
  readonly pause: boolean
  readonly json?: boolean
}

/** `commit` */
export async function commit(
  sandbox: string,
  name: string | undefined,
  options: CommitOptions,
): Promise<void> {
  const { change, message, author, pause, json } = options
  const image = await commitSandbox(sandbox, {
    config: parseChanges(change),
    pause,
    ...(name === undefined ? {} : { name }),
    ...(message === undefined ? {} : { comment: message }),
    ...(author === undefined ? {} : { author }),
  })
  console.log(json ? JSON.stringify({ id: image.configDigest, digest: image.digest }) : image.configDigest)
}
