import Table from "cli-table3"

const NO_BORDERS = Object.fromEntries(
  ["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left", "bottom-right"]
    .concat(["left", "left-mid", "mid", "mid-mid", "right", "right-mid", "middle"])
    .map(name => [name, ""]),
)

/** Prints rows as docker does: columns with three blanks between, no lines. */
export function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  const table = new Table({
    head: [...head],
    chars: NO_BORDERS,
    style: { "padding-left": 0, "padding-right": 3, head: [], border: [] },
  })
  for (const row of rows) table.push([...row])
  console.log(table.toString())
}

/** `5 minutes ago`, from milliseconds since 1970. */
export function ago(then: number, now = Date.now()): string {
  const seconds = Math.max(0, Math.round((now - then) / 1000))
  const [amount, unit] =
    seconds < 60
      ? [seconds, "second"]
      : seconds < 3600
        ? [Math.floor(seconds / 60), "minute"]
        : seconds < 86_400
          ? [Math.floor(seconds / 3600), "hour"]
          : [Math.floor(seconds / 86_400), "day"]
  return `${amount} ${unit}${amount === 1 ? "" : "s"} ago`
}

/** Bytes as people read them. */
export function size(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"]
  const power = Math.min(units.length - 1, bytes > 0 ? Math.floor(Math.log10(bytes) / 3) : 0)
  return `${(bytes / 1000 ** power).toPrecision(3)}${units[power]}`
}

/** Prints a value as JSON that is safe to show: the characters that steer a terminal are escaped, C1 too. */
export function printJson(value: unknown): void {
  const text = JSON.stringify(value, undefined, 4)
  console.log(
    text.replace(/[\u007f-\u009f]/g, char => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`),
  )
}
