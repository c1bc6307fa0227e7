import { expect, test } from "vitest"
import { DriverPlace } from "./driver-place.js"

const times = (count: number, action: () => void) => Array.from({ length: count }, action)

test("a driver that is only about to wake up after eight interrupts in a row is beside", () => {
  const place = new DriverPlace()
  times(7, () => place.interrupted(false, false))
  expect(place.isBeside).toBe(false)
  place.interrupted(false, false)
  expect(place.isBeside).toBe(true)
})

test("one that has run by the time that the interrupt is raised is not", () => {
  const place = new DriverPlace()
  times(8, () => place.interrupted(false, false))
  place.interrupted(false, true)
  expect(place.isBeside).toBe(false)
})

test("interrupts while more is available say nothing, and after 64 of them it is found out anew", () => {
  const place = new DriverPlace()
  times(8, () => place.interrupted(false, false))
  times(63, () => place.interrupted(true, true))
  expect(place.isBeside).toBe(true)
  place.interrupted(true, true)
  expect(place.isBeside).toBe(false)
  times(8, () => place.interrupted(false, false))
  expect(place.isBeside).toBe(true)
})
