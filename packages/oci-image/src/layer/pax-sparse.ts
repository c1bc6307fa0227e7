import { badSparse, PaxSparseMap, parseDecimal, type SparseMap, SparseRegions } from "./sparse-map.js"

/** Records that may occur once. */
const SINGLE: ReadonlySet<string> = new Set([
  "major",
  "minor",
  "name",
  "size",
  "realsize",
  "numblocks",
  "map",
])

/**
 * GNU's sparse records of one PAX header, in any of its three formats. What belongs to two of them at once is
 * refused: programs would disagree on it.
 *
 * | format | records |
 * | --- | --- |
 * | 0.0 | `size`, `numblocks`, and `offset`, `numbytes` of each region |
 * | 0.1 | `name`, `size`, `numblocks`, `map`: offsets and sizes with commas |
 * | 1.0 | `major` 1, `minor` 0, `name`, `realsize`; the map is in the content |
 *
 * @see GNU tar manual, "Storing Sparse Files"
 */
export class PaxSparse {
  static readonly PREFIX = "GNU.sparse."

  readonly #single = new Map<string, string>()
  /** Offsets and sizes of format 0.0, as they came. */
  readonly #pairs: number[] = []

  /**
   * Takes a record.
   *
   * @param key - without {@link PREFIX}
   * @throws ImageError `tar-sparse`
   */
  add(key: string, value: string): void {
    if (key === "offset" || key === "numbytes") {
      const wanted = this.#pairs.length % 2 === 0 ? "offset" : "numbytes"
      if (key !== wanted) throw badSparse(`${key} where ${wanted} belongs`)
      this.#pairs.push(parseDecimal(value))
      return
    }
    if (!SINGLE.has(key) || this.#single.has(key)) throw badSparse("record is unknown or occurs twice")
    if (key === "name" && (value === "" || value.includes("\0")))
      throw badSparse("name is empty or has a NUL")
    this.#single.set(key, value)
  }

  /**
   * The map, as far as the header has it.
   *
   * @param max - how many regions there may be
   * @throws ImageError `tar-sparse`, `limit`
   */
  map(max: number): SparseMap {
    if (this.#single.has("major") || this.#single.has("minor")) return this.#version1(max)
    this.#only("name", "size", "numblocks", "map")
    const text = this.#single.get("map")
    if (text !== undefined && this.#pairs.length > 0) throw badSparse("two maps")
    const numbers = text === undefined ? this.#pairs : text === "" ? [] : text.split(",").map(parseDecimal)
    const count = parseDecimal(this.#value("numblocks"))
    if (numbers.length !== 2 * count) throw badSparse(`map does not have ${count} regions`)
    const regions = new SparseRegions(max)
    for (let i = 0; i < numbers.length; i += 2) regions.add(numbers[i] as number, numbers[i + 1] as number)
    return {
      regions,
      realSize: parseDecimal(this.#value("size")),
      name: this.#single.get("name"),
      wantsBlock: false,
      inContent: false,
      take: () => undefined,
    }
  }

  #version1(max: number): SparseMap {
    this.#only("major", "minor", "name", "realsize")
    if (this.#value("major") !== "1" || this.#value("minor") !== "0") throw badSparse("unknown version")
    return new PaxSparseMap(this.#value("name"), parseDecimal(this.#value("realsize")), max)
  }

  #only(...keys: string[]): void {
    const alien = [...this.#single.keys()].find(key => !keys.includes(key))
    if (alien ?? (keys.includes("major") && this.#pairs.length > 0)) throw badSparse("records of two formats")
  }

  #value(key: string): string {
    const value = this.#single.get(key)
    if (value === undefined) throw badSparse(`no ${key}`)
    return value
  }
}
