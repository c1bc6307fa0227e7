import { describe, expect, test } from "vitest"
import { checkCpus, checkOnline, cpuArguments } from "./options.js"

describe("virtual CPUs of a sandbox", () => {
  test("one, unless more are asked for, and no more while it runs", () => {
    expect(checkCpus({})).toEqual({ cpus: 1, cpusMax: 1 })
    expect(checkCpus({ cpus: 4 })).toEqual({ cpus: 4, cpusMax: 4 })
    expect(checkCpus({ cpus: 2, cpusMax: 32 })).toEqual({ cpus: 2, cpusMax: 32 })
  })

  test.each([
    [{ cpus: 0 }, /cpus must be a whole number from 1 to 32, not 0/],
    [{ cpus: 1.5 }, /not 1.5/],
    [{ cpus: 33 }, /not 33/],
    [{ cpus: 4, cpusMax: 2 }, /cpusMax must be a whole number from 4, which cpus is, to 32, not 2/],
    [{ cpusMax: 33 }, /not 33/],
    [{ cpusMax: 2.5 }, /not 2.5/],
  ])("%o is refused", (options, message) => {
    expect(() => checkCpus(options)).toThrow(
      expect.objectContaining({ code: "invalid-argument", message: expect.stringMatching(message) }),
    )
  })

  test("the kernel is told only where there are more than it shall start", () => {
    expect(cpuArguments({ cpus: 2, cpusMax: 2 })).toEqual([])
    expect(cpuArguments({ cpus: 2, cpusMax: 3 })).toEqual(["maxcpus=2"])
  })

  test("as many are worked with as there are, at least one", () => {
    expect(checkOnline("the number of CPUs", 3, 3)).toBe(3)
    for (const online of [0, 4, Number.NaN, "2" as unknown as number])
      expect(() => checkOnline("the number of CPUs", online, 3)).toThrow(/from 1 to 3/)
  })
})
