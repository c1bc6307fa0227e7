/** How much of the console is kept: enough for a panic's text. */
const KEPT_BYTES = 64 * 1024

/**
 * The end of a guest's console. The guest writes it, so it is bounded, and escaped before a person sees it
 * (catalogue C1, C3).
 */
export class ConsoleLog {
  #chunks: Buffer[] = []
  #length = 0

  push(chunk: Buffer): void {
    this.#chunks.push(chunk)
    this.#length += chunk.length
    while (this.#length > KEPT_BYTES && this.#chunks.length > 1)
      this.#length -= (this.#chunks.shift() as Buffer).length
  }

  /** The last `count` lines that hold something. */
  lastLines(count: number): string {
    const text = Buffer.concat(this.#chunks).subarray(-KEPT_BYTES).toString("utf8")
    const lines = text
      .split(/\r?\n/)
      .map(escapeControls)
      .filter(line => line.trim() !== "")
    return lines.slice(-count).join("\n")
  }
}

/** Makes control characters and escape sequences visible instead of effective; tabs and line feeds stay. */
export function escapeControls(text: string): string {
  return text.replace(/(?![\t\n])\p{Cc}/gu, char => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`)
}
