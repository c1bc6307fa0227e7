import type { MessageInitShape } from "@bufbuild/protobuf"
import type { ProcessSchema, SpecSchema } from "@ts-vmm/guest"
import { containerSpec, type ProcessSpecOptions, processSpec } from "@ts-vmm/guest/container-spec"
import type { ImageConfig } from "@ts-vmm/oci-image"
import { SandboxError } from "../errors.js"
/** Size of a terminal in characters. */
export interface TerminalSize {
  readonly columns: number
  readonly rows: number
}

/** What to run and as whom. Absent fields come from the image. */
export interface ProcessOptions {
  /** Environment on top of the image's. */
  readonly env?: Readonly<Record<string, string>>
  /** Absolute path in the container; made when it is missing. */
  readonly cwd?: string
  /** `name`, `uid`, `name:group` or `uid:gid`, looked up inside the container. */
  readonly user?: string
  /** Gives the program a terminal; stdout and stderr are then one stream. */
  readonly tty?: boolean | TerminalSize
}

/** What of an image's configuration a process starts from. */
export type ImageDefaults = Pick<ImageConfig, "env" | "entrypoint" | "cmd" | "workingDir" | "user">

/** What a container is, beyond its first program. */
export interface ContainerSpecOptions extends ProcessOptions {
  /** The whole command line. Empty: the container only waits, for `exec`. */
  readonly command: readonly string[]
  readonly hostname: string
  readonly readOnlyRoot: boolean
  /** Guest path of the mounted root file system. */
  readonly rootPath: string
  /** Beside the usual ones. */
  readonly mounts?: NonNullable<MessageInitShape<typeof SpecSchema>["Mounts"]>
}

/** Environment before the image's and the caller's; Docker's. */
const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
/** Caps on what a caller hands over; the kernel's own limits are near (E2BIG). */
const MAX_ARGUMENTS = 100_000
const MAX_ARGUMENT_BYTES = 2 * 1024 * 1024

/**
 * The command line as Docker makes it: an entrypoint, the image's or the caller's, before the command, the
 * image's or the caller's. An entrypoint of the caller's drops the image's command too.
 *
 * @throws SandboxError `invalid-argument` when there is nothing to run
 */
export function resolveCommand(
  image: ImageDefaults,
  options: { entrypoint?: readonly string[]; command?: readonly string[] },
): string[] {
  const entrypoint = options.entrypoint ?? image.entrypoint
  const fromImage = options.entrypoint ? [] : image.cmd
  const command = options.command && options.command.length > 0 ? options.command : fromImage
  const whole = [...entrypoint, ...command]
  if (whole.length === 0)
    throw new SandboxError(
      "invalid-argument",
      "no command specified: the image has neither entrypoint nor cmd",
    )
  return whole
}

/** The OCI process for `command` with the image's defaults under the caller's options. */
export function processFor(
  image: ImageDefaults,
  command: readonly string[],
  options: ProcessOptions,
): MessageInitShape<typeof ProcessSchema> {
  return processSpec(processOptions(image, command, options))
}

/** The OCI spec of a container. */
export function containerFor(
  image: ImageDefaults,
  options: ContainerSpecOptions,
): MessageInitShape<typeof SpecSchema> {
  const { rootPath, hostname, readOnlyRoot, mounts = [] } = options
  return containerSpec({
    ...processOptions(image, options.command, options),
    rootPath,
    hostname,
    readonly: readOnlyRoot,
    mounts,
  })
}

/** @throws SandboxError `invalid-argument` */
function processOptions(
  image: ImageDefaults,
  command: readonly string[],
  options: ProcessOptions,
): ProcessSpecOptions {
  const env = mergeEnvironment(image.env, options.env ?? {}, Boolean(options.tty))
  checkStrings(command, env)
  return {
    args: command,
    env,
    cwd: checkCwd(options.cwd ?? (image.workingDir || "/")),
    user: options.user ?? image.user,
    terminal: Boolean(options.tty),
    ...(typeof options.tty === "object" ? { size: options.tty } : {}),
  }
}

function mergeEnvironment(
  image: readonly string[],
  own: Readonly<Record<string, string>>,
  tty: boolean,
): string[] {
  const merged = new Map<string, string>()
  const initial = tty ? [DEFAULT_PATH, "TERM=xterm"] : [DEFAULT_PATH]
  for (const line of [...initial, ...image]) {
    const equals = line.indexOf("=")
    if (equals > 0) merged.set(line.slice(0, equals), line)
  }
  for (const [name, value] of Object.entries(own)) {
    if (name === "" || name.includes("="))
      throw new SandboxError("invalid-argument", `invalid environment variable name "${name}"`)
    merged.set(name, `${name}=${value}`)
  }
  return [...merged.values()]
}

function checkCwd(cwd: string): string {
  if (!cwd.startsWith("/"))
    throw new SandboxError("invalid-argument", `the working directory "${cwd}" is not an absolute path`)
  return cwd
}

function checkStrings(command: readonly string[], env: readonly string[]): void {
  const all = [...command, ...env]
  if (all.length > MAX_ARGUMENTS)
    throw new SandboxError(
      "invalid-argument",
      `${all.length} arguments and variables are too many (at most ${MAX_ARGUMENTS})`,
    )
  if (all.some(text => text.includes("\0")))
    throw new SandboxError("invalid-argument", "an argument or variable holds a NUL byte")
  const bytes = all.reduce((sum, text) => sum + Buffer.byteLength(text) + 1, 0)
  if (bytes > MAX_ARGUMENT_BYTES) {
    throw new SandboxError(
      "invalid-argument",
      `arguments and environment take ${bytes} bytes (at most ${MAX_ARGUMENT_BYTES})`,
    )
  }
}
