/** How often a smaller case is tried, and for how long. */
const MAX_TRIES = 3000
const MAX_MS = 8_000

/**
 * Makes a failing case smaller: takes out pieces of arrays, brings numbers down, for as long as it `fails` in
 * the same way. Cases are plain JSON-like values, so one shrinker does for every target.
 */
export async function shrink<C>(input: C, fails: (candidate: C) => Promise<boolean>): Promise<C> {
  const deadline = performance.now() + MAX_MS
  let best = input
  let tries = 0
  for (let progress = true; progress; ) {
    progress = false
    for (const candidate of smaller(best)) {
      if (tries++ >= MAX_TRIES || performance.now() > deadline) return best
      if (!(await fails(candidate as C))) continue
      best = candidate as C
      progress = true
      break
    }
  }
  return best
}

/** Values a little smaller than `value`, the boldest first. */
function* smaller(value: unknown): Generator<unknown> {
  if (value instanceof Uint8Array) yield* shorter(value, (a, b) => Uint8Array.from([...a, ...b]))
  else if (Array.isArray(value)) {
    yield* shorter(value as unknown[], (a, b) => [...a, ...b])
    for (let i = 0; i < value.length; i++) {
      for (const part of smaller(value[i])) yield [...value.slice(0, i), part, ...value.slice(i + 1)]
    }
  } else if (typeof value === "number" && value !== 0) {
    yield* new Set([0, Math.trunc(value / 2), value - Math.sign(value)].filter(n => n !== value))
  } else if (typeof value === "bigint" && value !== 0n) {
    yield* new Set([0n, value / 2n])
  } else if (typeof value === "object" && value !== null) {
    for (const [key, part] of Object.entries(value)) {
      for (const less of smaller(part)) yield { ...value, [key]: less }
    }
  }
}

function* shorter<T extends { readonly length: number; slice(start: number, end?: number): T }>(
  list: T,
  join: (a: T, b: T) => T,
): Generator<T> {
  for (let size = list.length; size >= 1; size = Math.floor(size / 2)) {
    for (let at = 0; at + size <= list.length; at += size)
      yield join(list.slice(0, at), list.slice(at + size))
  }
}
