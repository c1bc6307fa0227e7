// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const TOKEN = /\x1b\[([0-?]*)([@-~])|[\s\S]/g

/** A terminal as far as progress bars need it: lines, carriage returns, going up, and deleting to the end. */
export class Screen {
  readonly #columns: number
  readonly #rows: string[][] = [[]]
  #row = 0
  #column = 0

  constructor(columns: number) {
    this.#columns = columns
  }

  /** What stands there, without lines that are empty. */
  get lines(): string[] {
    return this.#rows.map(row => row.join("").trimEnd()).filter(line => line !== "")
  }

  write(text: string): void {
    for (const [token, parameters = "", command] of text.matchAll(TOKEN))
      if (command) this.#steer(command, Number(parameters) || 0)
      else if (token === "\n") this.#lineFeed()
      else if (token === "\r") this.#column = 0
      else if (this.#column < this.#columns) this.#put(token)
  }

  #put(character: string): void {
    const row = this.#current
    while (row.length < this.#column) row.push(" ")
    row[this.#column++] = character
  }

  get #current(): string[] {
    return this.#rows[this.#row] as string[]
  }

  #lineFeed(): void {
    if (++this.#row === this.#rows.length) this.#rows.push([])
  }

  #steer(command: string, count: number): void {
    if (command === "A") this.#row = Math.max(0, this.#row - Math.max(1, count))
    if (command === "G") this.#column = Math.max(0, count - 1)
    if (command === "K") this.#current.length = Math.min(this.#current.length, this.#column)
    if (command === "J") {
      this.#current.length = Math.min(this.#current.length, this.#column)
      this.#rows.length = this.#row + 1
    }
  }
}
