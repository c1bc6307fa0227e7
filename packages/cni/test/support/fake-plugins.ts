// For tests: plugins that are small scripts. Not part of what is published.
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** What a fake plugin does after it has noted its call, as lines of sh; nothing is "answer what came before". */
export type FakeScript = Partial<Record<"ADD" | "CHECK" | "DEL" | "VERSION", string>>

/** What an ADD that works says. */
export const RESULT = {
  cniVersion: "1.0.0",
  interfaces: [{ name: "eth0", mac: "02:00:00:00:00:01", sandbox: "/run/netns/x" }],
  ips: [{ address: "10.1.0.5/24", gateway: "10.1.0.1", interface: 0 }],
  routes: [{ dst: "0.0.0.0/0" }],
  dns: {},
}

/** A folder of plugins that note how they are called, and a folder for records. */
export class FakePlugins {
  readonly root = mkdtempSync(join(tmpdir(), "cni-"))
  readonly pluginDir = join(this.root, "bin")
  readonly stateDir = join(this.root, "state")
  readonly #notes = join(this.root, "notes")

  constructor() {
    for (const folder of [this.pluginDir, this.#notes]) mkdirSync(folder)
  }

  /** Makes a plugin, or makes it another one. */
  add(type: string, script: FakeScript = {}): void {
    const cases = Object.entries({ ADD: say(RESULT), ...script }).map(
      ([command, lines]) => `${command}) ${lines} ;;`,
    )
    const path = join(this.pluginDir, type)
    const note = `${this.#notes}/${type}.$CNI_COMMAND`
    const text = [
      "#!/bin/sh",
      `echo "$CNI_COMMAND ${type}" >> ${this.#notes}/calls`,
      `cat > ${note}.stdin; env > ${note}.env`,
      `case $CNI_COMMAND in`,
      ...cases,
      "esac",
    ]
    writeFileSync(path, `${text.join("\n")}\n`)
    chmodSync(path, 0o755)
  }

  /** `ADD bridge` and so on, in order, and forgets them. */
  calls(): string[] {
    const path = join(this.#notes, "calls")
    const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n").slice(0, -1) : []
    rmSync(path, { force: true })
    return lines
  }

  /** What a plugin was told last. */
  stdin(type: string, command: string): Record<string, unknown> {
    return JSON.parse(readFileSync(join(this.#notes, `${type}.${command}.stdin`), "utf8"))
  }

  env(type: string, command: string): Record<string, string> {
    const text = readFileSync(join(this.#notes, `${type}.${command}.env`), "utf8")
    return Object.fromEntries(
      text
        .split("\n")
        .slice(0, -1)
        .map(line => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
    )
  }

  /** Files of records. */
  records(): string[] {
    return existsSync(this.stateDir) ? readdirSync(this.stateDir).sort() : []
  }

  remove(): void {
    rmSync(this.root, { recursive: true })
  }
}

/** A line of sh that writes a document to stdout. */
export function say(document: unknown): string {
  const text = typeof document === "string" ? document : JSON.stringify(document)
  return `printf %s '${text.replaceAll("'", "'\\''")}'`
}
