import type { Container } from "../container/container.js"
import type { SandboxCpus } from "../cpus/sandbox-cpus.js"
import { SandboxError } from "../errors.js"
import { changeMemory } from "../memory/control.js"
import type { SandboxMemory } from "../memory/sandbox-memory.js"
import type { ControlStreams } from "./control.js"
import type { ControlRequest } from "./control-protocol.js"

/** A sandbox as far as other processes may reach it. */
export interface Controlled {
  readonly name: string
  readonly containers: Iterable<Container>
  /** @throws SandboxError `stopped` */
  memory(): SandboxMemory
  /** @throws SandboxError `stopped` */
  cpus(): SandboxCpus
  kill(signal: number): Promise<void>
  /** Begins its end. */
  end(): void
}

/**
 * Does what another process of this user asks of a sandbox.
 *
 * @returns what it is told
 * @throws SandboxError `stopped`, and what the containers throw
 */
export async function answerControl(
  request: ControlRequest,
  streams: ControlStreams,
  sandbox: Controlled,
): Promise<unknown> {
  switch (request.op) {
    case "signal":
      await sandbox.kill(request.signal)
      return undefined
    case "diff":
      return firstContainer(sandbox).diff()
    case "memory":
      return changeMemory(sandbox.memory(), request.options)
    case "cpus": {
      const cpus = sandbox.cpus()
      if (request.options.online !== undefined) await cpus.setOnline(request.options.online)
      return { online: cpus.online, max: cpus.max }
    }
    case "commit": {
      const { digest, configDigest } = await firstContainer(sandbox).commit(request.options)
      return { digest, configDigest }
    }
    case "copy-in": {
      const { path, archive = false, name, contents } = request.options
      return firstContainer(sandbox).copyIn({ name, contents, tar: streams.received() }, path, { archive })
    }
    case "copy-out": {
      const { path, followLink = false } = request.options
      return streams.send(firstContainer(sandbox).copyOut(path, { followLink }))
    }
    default:
      // Answer first: the socket goes with the sandbox.
      setImmediate(() => sandbox.end())
      return undefined
  }
}

/** What other processes mean by a sandbox: a sandbox of the command line has one container. */
function firstContainer({ name, containers }: Controlled): Container {
  for (const container of containers) return container
  throw new SandboxError("stopped", `no container is running in the sandbox ${name}`)
}
