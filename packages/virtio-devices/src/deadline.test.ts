import { setImmediate, setTimeout } from "node:timers/promises"
import { eventFd, Poller, signal } from "@ts-vmm/native"
import { expect, test } from "vitest"
import { Deadline } from "./deadline.js"

/** Keeps this process from looking at anything. */
function standStill(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end; );
}

test("what comes too late is late, once", async () => {
  let late = 0
  const deadline = new Deadline(5, () => late++)
  await setTimeout(50)
  expect(late).toBe(1)
  deadline.cancel()
})

test("what has come while the process stood still has its turn first, and can cancel it", async () => {
  let isLate = false
  const fd = eventFd()
  // Here timers have their turn before fds.
  await setImmediate()
  const deadline = new Deadline(5, () => {
    isLate = true
  })
  let poller: Poller | undefined
  const came = new Promise<void>(resolve => {
    poller = new Poller(fd, "readable", () => {
      deadline.cancel()
      poller?.close()
      resolve()
    })
  })
  signal(fd)
  standStill(20)
  await came
  await setTimeout(20)
  expect(isLate).toBe(false)
})

test("one that was cancelled is never late", async () => {
  let isLate = false
  const deadline = new Deadline(1, () => {
    isLate = true
  })
  deadline.cancel()
  deadline.cancel()
  await setTimeout(20)
  expect(isLate).toBe(false)
})
