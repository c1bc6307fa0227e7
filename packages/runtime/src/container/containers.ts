import type { Turns } from "../attach/turns.js"
import { pickWait, type WaitOptions, withDeadline } from "../deadline.js"
import { Container, type ContainerHost, type ContainerOptions } from "./container.js"
import { signalNumber } from "./process.js"

/** The containers of one sandbox. */
export class Containers {
  readonly #hostname: string
  readonly #host: () => ContainerHost
  readonly #turns: Turns
  readonly #running = new Map<string, Container>()
  /** Of all that were made; the guest has those of ended ones until they are removed. */
  readonly #ids: string[] = []
  #main: Promise<Container> | undefined

  /**
   * @param hostname - of those that do not ask for another
   * @param host - what a new one is made in. @throws SandboxError `stopped`
   * @param turns - of the sandbox's devices: one that is being made sees each of its mounts, or none of it
   */
  constructor(hostname: string, host: () => ContainerHost, turns: Turns) {
    this.#hostname = hostname
    this.#host = host
    this.#turns = turns
  }

  /** Those that run, by their ids, in the order in which they were made. */
  get running(): ReadonlyMap<string, Container> {
    return this.#running
  }

  /** All that were made. */
  get ids(): readonly string[] {
    return this.#ids
  }

  /** Makes one and starts its program. @throws SandboxError as `Sandbox.createContainer` */
  start(command: readonly string[], options: ContainerOptions): Promise<Container> {
    return this.#turns.share(() => this.#start(command, options))
  }

  async #start(command: readonly string[], options: ContainerOptions): Promise<Container> {
    const host = this.#host()
    const id = `c${this.#ids.length + 1}`
    this.#ids.push(id)
    const container = await Container.start(host, id, command, options.hostname ?? this.#hostname, options)
    this.#running.set(id, container)
    const forget = () => this.#running.delete(id)
    container.wait().then(forget, forget)
    return container
  }

  /** The one without a program: made once, for whoever asks first; each asker waits as long as it wants to. */
  async main(options: WaitOptions): Promise<Container> {
    this.#host()
    this.#main ??= this.start([], {})
    return withDeadline(this.#main, "making the main container", pickWait(options))
  }

  /** Sends a signal to the first program of each that runs. */
  async kill(signal: NodeJS.Signals | number, options: WaitOptions): Promise<void> {
    signalNumber(signal)
    await Promise.all([...this.#running.values()].map(container => container.kill(signal, options)))
  }

  /** SIGTERM for each that runs; resolves when they have ended. */
  async terminate(): Promise<void> {
    await Promise.all([...this.#running.values()].map(one => one.kill("SIGTERM").then(() => one.wait())))
  }
}
