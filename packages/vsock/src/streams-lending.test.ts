import { expect, test } from "vitest"
import { accepted } from "./testing/accepted.js"
import { joinGuest } from "./testing/wire.js"

test("lent chunks carry every byte in order, one at a time, and hold the guest back until they are done with", async () => {
  const wire = joinGuest({ bufAlloc: 64 * 1024 })
  const [stream, socket] = await accepted(wire)
  const sent = Buffer.from(Uint8Array.from({ length: 500_000 }, (_, i) => (i * 7 + (i >> 9)) & 0xff))
  const got: Buffer[] = []
  const loans: (() => void)[] = []
  let ended = false
  stream.on("end", () => (ended = true))

  socket.write(sent)
  socket.close()
  stream.lendTo((chunk, done) => {
    got.push(Buffer.from(chunk))
    if (got.length % 3 === 0) done()
    else loans.push(done)
  })
  await wire.settle()
  expect(loans).toHaveLength(1)
  expect(socket.closed).toBe(false)
  while (loans.length > 0) {
    expect(ended).toBe(false)
    loans.shift()!()
    await wire.settle()
  }

  expect(Buffer.concat(got).equals(sent)).toBe(true)
  expect(ended).toBe(true)
  expect(stream.closed).toBe(true)
})

test("a stream is lent or read, not both", async () => {
  const wire = joinGuest()
  const [stream] = await accepted(wire)
  stream.lendTo((_chunk, done) => done())

  expect(() => stream.lendTo((_chunk, done) => done())).toThrow(
    expect.objectContaining({ code: "invalid-argument" }),
  )
})
