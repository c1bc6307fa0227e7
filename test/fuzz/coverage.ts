import { Session } from "node:inspector/promises"
import { fileURLToPath } from "node:url"

const ROOT = fileURLToPath(new URL("../..", import.meta.url))

/** How much of some sources was reached, by function and by block, in the text that ran. */
interface Reached {
  functions: number
  reachedFunctions: number
  bytes: number
  reachedBytes: number
}

/** A function as V8 tells it: its own range first, then the blocks in it that ran another number of times. */
type FunctionCoverage = Awaited<ReturnType<typeof takeCoverage>>[number]["functions"][number]

/** Counts what is executed of sources below some folders. Everything runs slower meanwhile. */
export class Coverage {
  readonly #session = new Session()
  readonly #folders: readonly string[]

  /** @param folders below the checkout */
  constructor(folders: readonly string[]) {
    this.#folders = folders
  }

  async start(): Promise<void> {
    this.#session.connect()
    await this.#session.post("Profiler.enable")
    await this.#session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true })
  }

  /** Ends the counting. @returns a line for each folder, and the functions that nothing called */
  async stop(): Promise<string[]> {
    const scripts = await takeCoverage(this.#session)
    await this.#session.post("Profiler.stopPreciseCoverage")
    this.#session.disconnect()
    return this.#folders.map(folder => {
      const functions = scripts
        .filter(({ url }) => isSourceBelow(url, folder))
        .flatMap(script => script.functions.filter(({ functionName }) => functionName !== ""))
      return describe(folder, functions)
    })
  }
}

async function takeCoverage(session: Session) {
  return (await session.post("Profiler.takePreciseCoverage")).result
}

function isSourceBelow(url: string, folder: string): boolean {
  const path = url.startsWith("file:") ? fileURLToPath(url) : url
  return path.startsWith(`${ROOT}${folder}/`) && !path.endsWith(".test.ts") && !path.endsWith("/testing.ts")
}

function describe(folder: string, functions: readonly FunctionCoverage[]): string {
  const total: Reached = { functions: 0, reachedFunctions: 0, bytes: 0, reachedBytes: 0 }
  for (const one of functions) add(total, one)
  const percent = (part: number, whole: number) => `${((100 * part) / Math.max(1, whole)).toFixed(1)} %`
  const never = functions.filter(({ ranges }) => ranges[0]?.count === 0).map(one => one.functionName)
  return (
    `  reached of ${folder}: ${percent(total.reachedFunctions, total.functions)} of ${total.functions} functions, ` +
    `${percent(total.reachedBytes, total.bytes)} of their text` +
    (never.length > 0 ? `; never called: ${never.join(", ")}` : "")
  )
}

/** Functions within functions count in both: what is inside the inner one is its own range as well. */
function add(total: Reached, { ranges }: FunctionCoverage): void {
  const [whole, ...blocks] = ranges
  if (!whole) return
  total.functions++
  total.bytes += whole.endOffset - whole.startOffset
  if (whole.count === 0) return
  total.reachedFunctions++
  total.reachedBytes += whole.endOffset - whole.startOffset - unreached(blocks)
}

/** Bytes of blocks that never ran; one that lies in another such block is not counted twice. */
function unreached(blocks: readonly { startOffset: number; endOffset: number; count: number }[]): number {
  let bytes = 0
  let end = 0
  for (const block of blocks.filter(({ count }) => count === 0)) {
    if (block.endOffset <= end) continue
    bytes += block.endOffset - Math.max(end, block.startOffset)
    end = block.endOffset
  }
  return bytes
}
