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
