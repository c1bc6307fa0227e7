import { closeSync, mkdirSync, openSync, readdirSync, rmSync, writeSync } from "node:fs"
import { join } from "node:path"
import { setImmediate } from "node:timers/promises"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { describe, expect, test } from "vitest"
import { corpusOf, FOUND, saveCase } from "./cases.js"
import { Coverage } from "./coverage.js"
import { Random } from "./random.js"
import { shrink } from "./shrink.js"
import { Watchdog } from "./watchdog.js"

/** Seconds for all targets together. */
const SECONDS = Number(process.env["FUZZ_SECONDS"] ?? 60)
const DEFAULT_SECONDS = 60
/** The same cases every time unless asked for others. */
const SEED =
  process.env["FUZZ_SEED"] === "random" ? Date.now() >>> 0 : Number(process.env["FUZZ_SEED"] ?? 1) >>> 0
/** One case only. */
const ONLY = process.env["FUZZ_CASE"] === undefined ? undefined : Number(process.env["FUZZ_CASE"])

/** This many cases of each target, however long they take; `npm run fuzz` sets it. */
const EXECUTIONS =
  process.env["FUZZ_EXECUTIONS"] === undefined ? undefined : Number(process.env["FUZZ_EXECUTIONS"])
/** The first cases of such a run are also asked what they reach. */
const COVERED_CASES = 5_000
/** Cases between two lines about how far such a run is. */
const PROGRESS_CASES = 100_000

/** CPU time that one case may take. */
const MAX_CASE_MS = 1000
/** Wall time after which an asynchronous case counts as hanging, however busy the machine is. */
const HANG_MS = 20_000
/** What the executions that a target has at the least may take beyond its time, where the machine has much else to do. */
const SLOW_MACHINE_MS = 600_000
/** Memory that may come on top of what was in use after the first tenth of a run. */
const MAX_GROWTH = 48 * 2 ** 20
/** Synchronous cases between two turns of the event loop. */
const CASES_PER_TURN = 64

/** What is fuzzed. */
export interface FuzzTarget<C> {
  /** Also the name of its folder in `corpus/`. */
  readonly name: string
  /** Its part of `FUZZ_SECONDS`, 0 to 1. */
  readonly share: number
  /** Executions at the least in a run of 60 seconds, however slow the machine. */
  readonly minimum?: number
  /** Folders of the checkout with the sources that it is about: how much of them is reached is told. */
  readonly covers?: readonly string[]
  /** Makes a case: a plain value of objects, arrays, numbers, bigints, strings and byte arrays. */
  generate(random: Random): C
  /** Runs it; throws when an oracle is broken. What it leaves behind must not depend on earlier cases. */
  run(input: C): void | Promise<void>
  /** Before the first case. */
  setUp?(): void | Promise<void>
  /** After the last. */
  tearDown?(): void | Promise<void>
}

/** Two tests for a target: its corpus, and random cases for its share of the time. */
export function fuzz<C>(target: FuzzTarget<C>): void {
  const timeout = EXECUTIONS === undefined ? target.share * SECONDS * 4000 + SLOW_MACHINE_MS : 0
  describe(`fuzz ${target.name}`, () => {
    test.each(corpusOf<C>(target.name))("corpus %s", (_, saved) => {
      return withCampaign(target, campaign => campaign.replay(saved.case))
    })
    test(`random cases, seed ${SEED}`, { timeout }, () => {
      return withCampaign(target, campaign => {
        if (ONLY !== undefined) return campaign.one(ONLY)
        return EXECUTIONS === undefined ? campaign.run() : campaign.runExactly(EXECUTIONS)
      })
    })
  })
}

async function withCampaign<C>(
  target: FuzzTarget<C>,
  action: (campaign: Campaign<C>) => Promise<void>,
): Promise<void> {
  const campaign = new Campaign(target)
  await campaign.ready()
  await target.setUp?.()
  try {
    await action(campaign)
  } finally {
    await target.tearDown?.()
    await campaign.close()
  }
}

/** One run over cases of a target. */
class Campaign<C> {
  readonly #target: FuzzTarget<C>
  readonly #watchdog: Watchdog
  readonly #stray: unknown[] = []
  readonly #note: { readonly path: string; readonly fd: number }
  readonly #onStray = (error: unknown) => void this.#stray.push(error)

  constructor(target: FuzzTarget<C>) {
    this.#target = target
    this.#watchdog = new Watchdog(target.name, SEED)
    mkdirSync(FOUND, { recursive: true })
    // Survives a crash of the process, which guard pages turn an access outside of memory into.
    const path = join(FOUND, `${target.name}.running`)
    this.#note = { path, fd: openSync(path, "w") }
    process.on("uncaughtException", this.#onStray)
    process.on("unhandledRejection", this.#onStray)
  }

  async ready(): Promise<void> {
    await this.#watchdog.ready()
  }

  async close(): Promise<void> {
    process.off("uncaughtException", this.#onStray)
    process.off("unhandledRejection", this.#onStray)
    closeSync(this.#note.fd)
    rmSync(this.#note.path, { force: true })
    await this.#watchdog.close()
  }

  async run(): Promise<void> {
    const { share } = this.#target
    const minimum = Math.floor((this.#target.minimum ?? 1) * Math.min(1, SECONDS / DEFAULT_SECONDS))
    const begin = performance.now()
    const budget = share * SECONDS * 1000
    let early: Resources | undefined
    let index = 0
    for (; index < minimum || performance.now() - begin < budget; index++) {
      await this.one(index)
      const isWarm = performance.now() - begin > budget / 10 && index >= minimum / 10
      if (early === undefined && isWarm) early = await resources()
    }
    this.#tell(index, begin)
    if (early) checkGrowth(early, await resources())
  }

  /** Cases 0 to `count - 1`; those that are counted for coverage first. */
  async runExactly(count: number): Promise<void> {
    const covered = Math.min(count, COVERED_CASES)
    const coverage = new Coverage(this.#target.covers ?? [])
    await coverage.start()
    const begin = performance.now()
    for (let index = 0; index < covered; index++) await this.one(index)
    const lines = await coverage.stop()
    this.#tell(covered, begin)
    for (const line of lines) process.stdout.write(`${line}\n`)
    if (covered === count) return
    const early = await resources()
    const resumed = performance.now()
    for (let index = covered; index < count; index++) {
      await this.one(index)
      if (index % PROGRESS_CASES === 0) this.#tell(index - covered, resumed)
    }
    this.#tell(count - covered, resumed)
    checkGrowth(early, await resources())
  }

  #tell(cases: number, begin: number): void {
    const seconds = (performance.now() - begin) / 1000
    const rate = (cases / seconds).toFixed(0)
    process.stdout.write(
      `fuzz ${this.#target.name}: ${cases} cases in ${seconds.toFixed(1)} s (${rate} a second), seed ${SEED}\n`,
    )
  }

  /** A case of the corpus. */
  async replay(input: C): Promise<void> {
    await runOne(this.#target, input)
    await afterwards()
    if (this.#stray.length > 0) throw this.#stray.shift()
  }

  /** Random case `index`. */
  async one(index: number): Promise<void> {
    const input = this.#target.generate(new Random(SEED, this.#target.name, index))
    writeSync(this.#note.fd, `seed ${SEED} case ${index}\n`, 0)
    this.#watchdog.begins(index)
    try {
      await runOne(this.#target, input)
      if (this.#stray.length > 0 || index % CASES_PER_TURN === 0 || ONLY !== undefined) await afterwards()
      if (this.#stray.length > 0) throw this.#stray.shift()
    } catch (error) {
      throw await this.#report(input, index, error)
    } finally {
      this.#watchdog.ended()
    }
  }

  async #report(input: C, index: number, error: unknown): Promise<Error> {
    const { name } = this.#target
    const wanted = messageOf(error)
    const fails = async (candidate: C) => {
      const thrown = await runOne(this.#target, candidate).then(
        () => undefined,
        (e: unknown) => e,
      )
      await afterwards()
      const found = thrown ?? this.#stray.shift()
      this.#stray.length = 0
      return found !== undefined && messageOf(found) === wanted
    }
    const small = await shrink(input, fails)
    const path = saveCase(name, `${SEED}-${index}`, wanted, small)
    const replay = `FUZZ_SEED=${SEED} FUZZ_CASE=${index} npx vitest run --project fuzz test/fuzz -t "fuzz ${name}"`
    const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
    return new Error(`${text}\n  again: ${replay}\n  smallest case: ${path}`, { cause: error })
  }
}

/** Lets happen what a case left for later. */
async function afterwards(): Promise<void> {
  for (let i = 0; i < 3; i++) await setImmediate()
}

/** Numbers differ between a case and its smaller versions; what went wrong does not. */
function messageOf(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  return text.split("\n")[0]!.replace(/0x[0-9a-f]+|\d+/g, "#")
}

/** What the processor was at is asked only of a case that took long, in a second run: the question costs more than a case. */
async function runOne<C>(target: FuzzTarget<C>, input: C): Promise<void> {
  const begin = performance.now()
  const pending = target.run(input)
  if (pending) await orHang(pending)
  if (performance.now() - begin >= MAX_CASE_MS) await checkTime(target, input)
}

async function checkTime<C>(target: FuzzTarget<C>, input: C): Promise<void> {
  const cpu = process.cpuUsage()
  const pending = target.run(input)
  if (pending) await orHang(pending)
  const { user, system } = process.cpuUsage(cpu)
  expect((user + system) / 1000, "milliseconds of CPU for one case").toBeLessThan(MAX_CASE_MS)
}

async function orHang(pending: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const hang = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("case does not end")), HANG_MS)
  })
  try {
    await Promise.race([pending, hang])
  } finally {
    clearTimeout(timer)
  }
}

interface Resources {
  readonly fds: number
  readonly bytes: number
}

async function resources(): Promise<Resources> {
  setFlagsFromString("--expose-gc")
  const gc = runInNewContext("gc") as () => void
  for (let i = 0; i < 3; i++) {
    await setImmediate()
    gc()
  }
  const { heapUsed, external } = process.memoryUsage()
  return { fds: openFds(), bytes: heapUsed + external }
}

function checkGrowth(early: Resources, late: Resources): void {
  expect(late.fds, "open fds").toBeLessThanOrEqual(early.fds)
  expect(late.bytes - early.bytes, "bytes that stay in use").toBeLessThan(MAX_GROWTH)
}

/** Open file descriptors of this process. */
export function openFds(): number {
  return readdirSync("/proc/self/fd").length - 1
}
