import type { Duplex } from "node:stream"
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf"
import { type ContainerStats, checkEnd, checkStats, checkText, type ProcessEnd } from "./agent-replies.js"
import { GuestError } from "./errors.js"
import type {
  ExecProcessRequestSchema,
  InterfaceSchema,
  RouteSchema,
  StorageSchema,
  UpdateContainerRequestSchema,
} from "./gen/agent_pb.js"
import {
  AgentService,
  type CreateContainerRequestSchema,
  type CreateSandboxRequestSchema,
} from "./gen/agent_pb.js"
import { ContainerFiles, type UnpackRequestSchema } from "./gen/files_pb.js"
import { Health } from "./gen/health_pb.js"
import { Plug, type ViewRequestSchema } from "./gen/plug_pb.js"
import { type CallOptions, TtrpcClient } from "./ttrpc/client.js"

/** Names a process: a container's first process has the container's id as its exec id. */
export interface ProcessRef {
  containerId: string
  execId: string
}

/** What the agent says about itself. */
export interface GuestDetails {
  version: string
  initDaemon: boolean
  storageHandlers: string[]
}

const HEALTH_SERVING = 1
const NO_TIMEOUT = { timeoutMs: 0 }

/**
 * The agent in a sandbox, as typed calls. Requests may be sent without waiting for each other: the agent
 * starts them in the order sent, so a container can be created, started and waited for in one go.
 *
 * Replies are untrusted input: what cannot be true is refused as "bad-reply".
 *
 * Every method throws what {@link TtrpcClient.unary} throws; `waitProcess` and `getOomEvent` have no
 * timeout unless one is given.
 *
 * @example
 * ```ts
 * const agent = new AgentClient(await vsock.accept(AGENT_PORT))
 * const created = agent.createContainer({ containerId: "c", execId: "c", OCI: containerSpec({ rootPath, args }) })
 * const started = agent.startContainer({ containerId: "c" })
 * const exited = agent.waitProcess({ containerId: "c", execId: "c" })
 * await Promise.all([created, started])
 * process.exitCode = (await exited).exitCode
 * ```
 */
export class AgentClient {
  readonly rpc: TtrpcClient

  /** @param connection the stream the agent opened, or a client that already speaks on it */
  constructor(connection: Duplex | TtrpcClient) {
    this.rpc = connection instanceof TtrpcClient ? connection : new TtrpcClient(connection)
  }

  /** Resolves, never rejects, with the reason when the agent is gone. */
  get closed(): Promise<GuestError> {
    return this.rpc.closed
  }

  /** Ends the connection; a sandbox whose agent loses its connection powers off. */
  close(): void {
    this.rpc.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** Names the sandbox and mounts what all its containers share. Once per sandbox. */
  async createSandbox(request: MessageInitShape<typeof CreateSandboxRequestSchema>, options?: CallOptions) {
    await this.#call(AgentService.method.createSandbox, request, options)
  }

  /** Gives an interface of the guest its MTU and addresses, and brings it up. */
  async updateInterface(request: MessageInitShape<typeof InterfaceSchema>, options?: CallOptions) {
    await this.#call(AgentService.method.updateInterface, { interface: request }, options)
  }

  /** Adds routes to those of the guest. */
  async updateRoutes(routes: readonly MessageInitShape<typeof RouteSchema>[], options?: CallOptions) {
    await this.#call(AgentService.method.updateRoutes, { routes: { Routes: [...routes] } }, options)
  }

  /** Kills everything in the sandbox and powers it off; the answer comes before the power goes. */
  async destroySandbox(options?: CallOptions): Promise<void> {
    await this.#call(AgentService.method.destroySandbox, {}, options)
  }

  /** Mounts, namespaces, cgroup, stdio: all up to where the program would be executed. */
  async createContainer(
    request: MessageInitShape<typeof CreateContainerRequestSchema>,
    options?: CallOptions,
  ) {
    await this.#call(AgentService.method.createContainer, request, options)
  }

  /**
   * Executes the container's program.
   *
   * @throws GuestError "exec-not-found" | "exec-not-executable" beside those of every call
   */
  async startContainer(request: { containerId: string }, options?: CallOptions): Promise<void> {
    await this.#call(AgentService.method.startContainer, request, options)
  }

  /** Kills what is left of a container and removes everything it had. `timeout` is in seconds. */
  async removeContainer(
    request: { containerId: string; timeout?: number },
    options?: CallOptions,
  ): Promise<void> {
    await this.#call(AgentService.method.removeContainer, request, options)
  }

  /** Starts one more process in a running container. Throws like {@link AgentClient.startContainer}. */
  async execProcess(
    request: MessageInitShape<typeof ExecProcessRequestSchema>,
    options?: CallOptions,
  ): Promise<void> {
    await this.#call(AgentService.method.execProcess, request, options)
  }

  /** Sends a signal to one process, or with an empty `execId` to all of the container. */
  async signalProcess(request: ProcessRef & { signal: number }, options?: CallOptions): Promise<void> {
    await this.#call(AgentService.method.signalProcess, request, options)
  }

  /** How the process ended, when it has. Its output may still be on its way then. */
  async waitProcess(request: ProcessRef, options?: CallOptions): Promise<ProcessEnd> {
    return checkEnd(await this.#call(AgentService.method.waitProcess, request, { ...NO_TIMEOUT, ...options }))
  }

  /** Changes limits of a running container; 0 leaves a limit alone, a negative one removes it. */
  async updateContainer(
    request: MessageInitShape<typeof UpdateContainerRequestSchema>,
    options?: CallOptions,
  ) {
    await this.#call(AgentService.method.updateContainer, request, options)
  }

  /** Memory, CPU and process counts of a container. */
  async statsContainer(request: { containerId: string }, options?: CallOptions): Promise<ContainerStats> {
    return checkStats(await this.#call(AgentService.method.statsContainer, request, options))
  }

  /** Freezes every process of a container. */
  async pauseContainer(request: { containerId: string }, options?: CallOptions): Promise<void> {
    await this.#call(AgentService.method.pauseContainer, request, options)
  }

  /** Undoes {@link AgentClient.pauseContainer}. */
  async resumeContainer(request: { containerId: string }, options?: CallOptions): Promise<void> {
    await this.#call(AgentService.method.resumeContainer, request, options)
  }

  /**
   * Sends what a container changed of its image to a port of the host, where a {@link ChangeListReader} reads it. The
   * list is whole when this resolves; no timeout unless one is given.
   */
  async listChanges(request: { containerId: string; port: number }, options?: CallOptions): Promise<void> {
    await this.#call(ContainerFiles.method.listChanges, request, { ...NO_TIMEOUT, ...options })
  }

  /**
   * Sends what a container changed of its image to a port of the host, as a layer. It is whole when this resolves; no
   * timeout unless one is given.
   */
  async packChanges(request: { containerId: string; port: number }, options?: CallOptions): Promise<void> {
    await this.#call(ContainerFiles.method.packChanges, request, { ...NO_TIMEOUT, ...options })
  }

  /** Sends a file or folder of a container to a port of the host, as a tar stream. Like {@link AgentClient.packChanges}. */
  async packFiles(
    request: { containerId: string; path: string; port: number; follow?: boolean },
    options?: CallOptions,
  ): Promise<void> {
    await this.#call(ContainerFiles.method.packFiles, request, { ...NO_TIMEOUT, ...options })
  }

  /**
   * Reads a tar stream from a port of the host and makes its files in a container. All are there when this resolves; no
   * timeout unless one is given. The stream is in the one format that `UnpackFiles` takes, see `files.proto`.
   */
  async unpackFiles(
    request: MessageInitShape<typeof UnpackRequestSchema>,
    options?: CallOptions,
  ): Promise<void> {
    await this.#call(ContainerFiles.method.unpackFiles, request, { ...NO_TIMEOUT, ...options })
  }

  /** A device came to the slot at guest address `address`: the guest's driver takes it. */
  async bindDevice(address: number, options?: CallOptions): Promise<void> {
    await this.#call(Plug.method.bindDevice, { address: BigInt(address) }, options)
  }

  /** The guest's driver lets go of the device in the slot at guest address `address`. */
  async unbindDevice(address: number, options?: CallOptions): Promise<void> {
    await this.#call(Plug.method.unbindDevice, { address: BigInt(address) }, options)
  }

  /**
   * The guest works with its first `online` processors, and no others.
   * @throws GuestError `rpc` with FAILED_PRECONDITION when it does not have so many
   */
  async setProcessors(online: number, options?: CallOptions): Promise<void> {
    await this.#call(Plug.method.setProcessors, { online }, options)
  }

  /** Mounts a file system of the sandbox. `slot:` and an address in hexadecimal is the disk in that slot. */
  async mountVolume(storage: MessageInitShape<typeof StorageSchema>, options?: CallOptions): Promise<void> {
    await this.#call(Plug.method.mountVolume, { storage }, options)
  }

  /** Undoes {@link AgentClient.mountVolume}. */
  async unmountVolume(mountPoint: string, options?: CallOptions): Promise<void> {
    await this.#call(Plug.method.unmountVolume, { storage: { mountPoint } }, options)
  }

  /** Shows a folder or file of the sandbox in a container that runs. */
  async showVolume(
    request: MessageInitShape<typeof ViewRequestSchema>,
    options?: CallOptions,
  ): Promise<void> {
    await this.#call(Plug.method.showVolume, request, options)
  }

  /** Undoes {@link AgentClient.showVolume}. @throws GuestError `rpc` with FAILED_PRECONDITION while it is in use */
  async hideVolume(request: { containerId: string; target: string }, options?: CallOptions): Promise<void> {
    await this.#call(Plug.method.hideVolume, request, options)
  }

  /** Ends the standard input of a process, whatever the stream still holds. */
  async closeStdin(request: ProcessRef, options?: CallOptions): Promise<void> {
    await this.#call(AgentService.method.closeStdin, request, options)
  }

  /** Sets the size of a process's terminal, in characters. */
  async ttyWinResize(
    request: ProcessRef & { row: number; column: number },
    options?: CallOptions,
  ): Promise<void> {
    await this.#call(AgentService.method.ttyWinResize, request, options)
  }

  /** Sets the guest's clock. */
  async setGuestDateTime(time: Date, options?: CallOptions): Promise<void> {
    const ms = time.getTime()
    if (!Number.isFinite(ms)) throw new GuestError("invalid-argument", "the date to set is not a date")
    const sec = Math.floor(ms / 1000)
    const request = { Sec: BigInt(sec), Usec: BigInt((ms - sec * 1000) * 1000) }
    await this.#call(AgentService.method.setGuestDateTime, request, options)
  }

  /** Mixes bytes from the host into the guest kernel's random generator. At most 4 KiB. */
  async reseedRandomDev(data: Uint8Array, options?: CallOptions): Promise<void> {
    await this.#call(AgentService.method.reseedRandomDev, { data }, options)
  }

  /** Which agent answers, and what it can do. */
  async getGuestDetails(options?: CallOptions): Promise<GuestDetails> {
    const { agentDetails } = await this.#call(AgentService.method.getGuestDetails, {}, options)
    return {
      version: checkText(agentDetails?.version ?? ""),
      initDaemon: agentDetails?.initDaemon ?? false,
      storageHandlers: (agentDetails?.storageHandlers ?? []).slice(0, 64).map(checkText),
    }
  }

  /** Waits for the kernel to kill a process for want of memory; resolves with the container's id. */
  async getOomEvent(options?: CallOptions): Promise<string> {
    const reply = await this.#call(AgentService.method.getOOMEvent, {}, { ...NO_TIMEOUT, ...options })
    return checkText(reply.containerId)
  }

  /** True when the agent says that it serves. */
  async check(options?: CallOptions): Promise<boolean> {
    return (await this.#call(Health.method.check, {}, options)).status === HEALTH_SERVING
  }

  #call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions | undefined,
  ): Promise<MessageShape<O>> {
    return this.rpc.unary(method, request, options)
  }
}
