import { spawn } from "node:child_process"
import { type Dirent, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { RUN_OPTIONS } from "./under-test.js"

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..")
/** The built command line, as a user runs it. */
export const CLI = join(root, "examples", "example-runtime", "dist", "main.js")

/** Images of all tests, loaded once. */
export const TEST_IMAGE_DIR = process.env["TS_VMM_TEST_IMAGE_DIR"] ?? join(root, ".cache", "test-images")

/** How a run of the command line ended. */
export interface CliResult {
  readonly exitCode: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: Buffer
  readonly stderr: string
}

/** What a run gets. */
export interface CliOptions {
  readonly input?: Buffer | string
  readonly env?: Readonly<Record<string, string>>
}

/** A private state folder and the command line working in it; the image store is shared by all tests. */
export class Workplace {
  readonly stateDir = mkdtempSync(join(tmpdir(), "tsv-"))
  readonly env: Readonly<Record<string, string>>

  constructor(imageDir = TEST_IMAGE_DIR) {
    this.env = { TS_VMM_STATE_DIR: this.stateDir, TS_VMM_IMAGE_DIR: imageDir }
  }

  /** Starts the command line without waiting for it. */
  start(args: readonly string[], options: CliOptions = {}) {
    const [command = "", ...rest] = args
    const given = command === "run" ? [command, ...RUN_OPTIONS, ...rest] : args
    return spawn(process.execPath, [CLI, ...given], {
      env: { ...process.env, ...this.env, ...options.env },
      stdio: "pipe",
    })
  }

  /** Runs the command line to its end. */
  async run(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
    const child = this.start(args, options)
    child.stdin.on("error", () => undefined) // a program that ended does not read
    child.stdin.end(options.input ?? "")
    return collect(child)
  }

  /** Files of sandboxes that are still there. */
  leftFiles(): string[] {
    return filesBelow(this.stateDir)
  }

  /** Command lines of processes that still work in this place. */
  leftProcesses(): string[] {
    return readdirSync("/proc")
      .filter(name => /^\d+$/.test(name) && Number(name) !== process.pid)
      .map(readCommandLine)
      .filter(line => line.includes(this.stateDir))
  }

  remove(): void {
    rmSync(this.stateDir, { recursive: true, force: true })
  }
}

/** All output of a child and its end. */
export function collect(child: ReturnType<Workplace["start"]>): Promise<CliResult> {
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout.on("data", chunk => stdout.push(chunk))
  child.stderr.on("data", chunk => stderr.push(chunk))
  return new Promise((resolve, reject) => {
    child.once("error", reject)
    child.once("close", (exitCode, signal) => {
      resolve({ exitCode, signal, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() })
    })
  })
}

/** Files below a folder, and the folders of sandboxes. Those that come or go meanwhile may be missing. */
function filesBelow(folder: string): string[] {
  return entriesOf(folder).flatMap(entry => {
    const path = join(folder, entry.name)
    if (!entry.isDirectory()) return [path]
    return [...(folder.endsWith("/s") ? [path] : []), ...filesBelow(path)]
  })
}

function entriesOf(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return []
    throw error
  }
}

function readCommandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ")
  } catch {
    return "" // it ended meanwhile
  }
}
