import { pipeline } from "node:stream/promises"
import {
  type CopySummary,
  copyIntoSandbox,
  copyOutOfSandbox,
  escapeControls,
  unpackCopy,
} from "@ts-vmm/runtime"
import { type CopySide, parseCopySide } from "../copy-side.js"
import { CliError } from "../exit.js"
import { size } from "../words.js"

interface CopyOptions {
  readonly archive?: boolean
  readonly followLink?: boolean
  readonly quiet?: boolean
  readonly json?: boolean
}

type SandboxSide = Extract<CopySide, { kind: "sandbox" }>

/** Of what is left out: more than this is counted. */
const SKIPPED_SHOWN = 10

/** `cp` */
export async function cp(source: string, target: string, options: CopyOptions): Promise<void> {
  const [from, to] = [parseCopySide(source), parseCopySide(target)]
  if (from.kind === "sandbox") {
    if (to.kind === "sandbox") throw new CliError("copying between sandboxes is not supported")
    report(await copyOut(from, to, options), target, options)
  } else if (to.kind === "sandbox") report(await copyIn(from, to, options), target, options)
  else throw new CliError("one side has to be SANDBOX:PATH")
}

function copyIn(
  from: Exclude<CopySide, SandboxSide>,
  { name, path }: SandboxSide,
  { archive = false, followLink = false }: CopyOptions,
): Promise<CopySummary> {
  if (from.kind === "stream" && process.stdin.isTTY)
    throw new CliError("refusing to read an archive from a terminal: redirect one into it")
  return copyIntoSandbox(name, from.kind === "stream" ? process.stdin : from.path, path, {
    archive,
    followLink,
  })
}

async function copyOut(
  { name, path }: SandboxSide,
  to: Exclude<CopySide, SandboxSide>,
  { archive = false, followLink = false, json }: CopyOptions,
): Promise<CopySummary | undefined> {
  const stream = copyOutOfSandbox(name, path, { followLink })
  if (to.kind === "host") {
    const skipped = new Skipped()
    const summary = await unpackCopy(stream, to.path, { path, archive, onSkip: one => skipped.add(one) })
    skipped.tellRest()
    return summary
  }
  if (process.stdout.isTTY) throw new CliError("refusing to write an archive to a terminal: redirect it")
  if (json) throw new CliError("--json and - both want stdout")
  await pipeline(stream, process.stdout, { end: false })
  return undefined
}

/** On a terminal only, as docker has it. */
function report(summary: CopySummary | undefined, target: string, { quiet, json }: CopyOptions): void {
  if (!summary) return
  if (json) console.log(JSON.stringify(summary))
  else if (!quiet && process.stderr.isTTY)
    console.error(`Successfully copied ${size(summary.bytes)} to ${escapeControls(target)}`)
}

/** Tells of what is left out, but not a million times. */
class Skipped {
  #count = 0

  add(path: string): void {
    this.#count += 1
    if (this.#count <= SKIPPED_SHOWN) console.error(`example-runtime: left out ${path}: a device or FIFO`)
  }

  tellRest(): void {
    const more = this.#count - SKIPPED_SHOWN
    if (more > 0) console.error(`example-runtime: left out ${more} more devices or FIFOs`)
  }
}
