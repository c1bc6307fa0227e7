/** Values at the edges of integer types: where parsers go wrong. */
const EDGES = [0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0xfff, 0x1000, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff]

/** A random u32 below `limit`. */
export type RandomSource = (limit: number) => number

/** mulberry32: the same numbers for the same seed. */
export function randomSource(seed: number): RandomSource {
  let state = seed | 0
  return limit => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % limit
  }
}

/** `image` with one to four numbers of its first `range` bytes changed, or its end cut off. */
export function damaged(random: RandomSource, image: Uint8Array, range: number): Uint8Array {
  const copy = Uint8Array.from(image)
  for (let left = 1 + random(4); left > 0; left--) {
    const size = [1, 2, 4, 8][random(4)]!
    const at = random(Math.min(range, copy.length - size))
    copy.set(number(random).subarray(0, size), at)
  }
  return random(8) === 0 ? copy.subarray(0, random(copy.length)) : copy
}

/** A u64, often with an edge in its low or high half, or both. */
function number(random: RandomSource): Uint8Array {
  const half = () =>
    random(3) === 0 ? random(2 ** 32) : EDGES[random(EDGES.length)]! * (random(4) === 0 ? -1 : 1)
  return Uint8Array.from(Buffer.from(new Int32Array([half(), random(2) === 0 ? 0 : half()]).buffer))
}
