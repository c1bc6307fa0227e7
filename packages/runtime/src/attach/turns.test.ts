import { setImmediate } from "node:timers/promises"
import { expect, test } from "vitest"
import type { BootedGuest } from "../boot.js"
import { Turns } from "./turns.js"

const guest = { machine: { exited: new Promise(() => undefined) } } as unknown as BootedGuest

/** Work that is told of when it begins, and ends when it is let go. */
class Work {
  readonly begun: string[] = []
  readonly #ends = new Map<string, () => void>()

  readonly do = (name: string) => () => {
    this.begun.push(name)
    return new Promise<string>(resolve => this.#ends.set(name, () => resolve(name)))
  }

  async end(name: string): Promise<void> {
    this.#ends.get(name)?.()
    await setImmediate()
  }
}

function begin() {
  const turns = new Turns()
  turns.begin(guest)
  return { turns, work: new Work() }
}

test("changes are made one after the other, whatever becomes of them", async () => {
  const { turns, work } = begin()
  const failing = turns.take(() => Promise.reject(new RangeError("no")))
  const first = turns.take(work.do("first"))
  const second = turns.take(work.do("second"))
  await expect(failing).rejects.toThrow("no")
  await setImmediate()
  expect(work.begun).toEqual(["first"])
  await work.end("first")
  expect(work.begun).toEqual(["first", "second"])
  await work.end("second")
  expect(await Promise.all([first, second])).toEqual(["first", "second"])
})

test("what shares a turn is done at a time, and no change meanwhile", async () => {
  const { turns, work } = begin()
  const shared = [turns.share(work.do("a")), turns.share(work.do("b"))]
  const change = turns.take(work.do("change"))
  const later = turns.share(work.do("later"))
  await setImmediate()
  expect(work.begun).toEqual(["a", "b"])
  await work.end("a")
  expect(work.begun).toEqual(["a", "b"])
  await work.end("b")
  expect(work.begun).toEqual(["a", "b", "change"])
  await work.end("change")
  expect(work.begun).toEqual(["a", "b", "change", "later"])
  await work.end("later")
  expect(await Promise.all([...shared, change, later])).toEqual(["a", "b", "change", "later"])
})

test("what fails in a shared turn is its caller's, and holds up nobody", async () => {
  const { turns, work } = begin()
  await expect(turns.share(() => Promise.reject(new RangeError("no")))).rejects.toThrow("no")
  const change = turns.take(work.do("change"))
  await setImmediate()
  await work.end("change")
  expect(await change).toBe("change")
})
