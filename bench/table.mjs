const number = value => {
  if (value === null) return "–"
  const digits = Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 10 ? 1 : 3
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 })
}

const verdict = row => (row.met === null ? "" : row.met ? "met" : "NOT MET")

const COLUMNS = [
  ["suite", row => row.suite],
  ["what", row => row.name],
  ["ours", row => (row.ours === null ? "–" : `${number(row.ours)} ${row.unit}`)],
  ["peer", row => (row.peer === null ? "–" : `${number(row.peer)} ${row.unit}`)],
  ["", row => row.peerName ?? ""],
  ["ratio", row => (row.ratio === null ? "–" : row.ratio.toFixed(2))],
  ["goal", row => row.goal ?? ""],
  ["", verdict],
]

/**
 * Rows as text in columns, with what was left out below.
 * @param {import("./harness.mjs").Row[]} rows
 */
export function table(rows) {
  const lines = [
    COLUMNS.map(([title]) => title),
    ...rows.filter(row => row.ours !== null).map(row => COLUMNS.map(([, cell]) => cell(row))),
  ]
  const widths = COLUMNS.map((_, column) => Math.max(...lines.map(line => line[column].length)))
  const text = lines.map(line =>
    line
      .map((cell, column) => cell.padEnd(widths[column]))
      .join("  ")
      .trimEnd(),
  )
  const skips = rows
    .filter(row => row.skipped)
    .map(row => `skipped: ${row.suite} / ${row.name}: ${row.skipped}`)
  return [...text, ...skips].join("\n")
}
