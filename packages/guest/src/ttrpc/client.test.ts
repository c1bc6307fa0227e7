import { Duplex } from "node:stream"
import { create, toBinary } from "@bufbuild/protobuf"
import fc from "fast-check"
import { afterEach, describe, expect, test } from "vitest"
import { GuestError } from "../errors.js"
import { Health, HealthCheckResponseSchema } from "../gen/health_pb.js"
import { ErrorInfoSchema, ResponseSchema } from "../gen/ttrpc_pb.js"
import { TtrpcClient } from "./client.js"
import { encodeFrame, FRAME_DATA_MAX, MESSAGE_TYPE } from "./frame.js"
import { RpcStatusError, TtrpcServer } from "./server.js"
import { GRPC_STATUS } from "./status.js"

/** Two streams, each of which reads what the other writes. */
function duplexPair(): [Duplex, Duplex] {
  const ends: Duplex[] = []
  for (const other of [1, 0]) {
    ends.push(
      new Duplex({
        read: () => undefined,
        write(chunk, _encoding, done) {
          queueMicrotask(() => ends[other]?.push(chunk))
          done()
        },
        final(done) {
          ends[other]?.push(null)
          done()
        },
      }),
    )
  }
  return ends as [Duplex, Duplex]
}

function response(fields: Parameters<typeof create<typeof ResponseSchema>>[1]): Uint8Array {
  return toBinary(ResponseSchema, create(ResponseSchema, fields))
}

describe("ttrpc client", () => {
  let client: TtrpcClient | undefined
  /** The client, and the other end of its stream. */
  function connect(options?: { maxInFlight: number }): [TtrpcClient, Duplex] {
    const [here, there] = duplexPair()
    there.on("error", () => there.destroy())
    client = new TtrpcClient(here, options)
    return [client, there]
  }
  afterEach(() => client?.close())

  test("calls a method and gets its reply", async () => {
    const [client, there] = connect()
    new TtrpcServer(there).add(Health, {
      check: request => create(HealthCheckResponseSchema, { status: request.service.length }),
    })
    const [one, three] = await Promise.all([
      client.unary(Health.method.check, { service: "a" }),
      client.unary(Health.method.check, { service: "abc" }),
    ])
    expect([one.status, three.status]).toEqual([1, 3])
    expect(client.inFlight).toBe(0)
  })

  test("errors keep their status; a failed execve becomes its own code", async () => {
    const [client, there] = connect()
    const reason = (reason: string) => ({
      typeUrl: "type.googleapis.com/google.rpc.ErrorInfo",
      value: toBinary(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain: "exec" })),
    })
    const answers = [
      new RpcStatusError(GRPC_STATUS.INTERNAL, "it broke"),
      new RpcStatusError(GRPC_STATUS.NOT_FOUND, "exec: no", [reason("ENOENT")]),
      new RpcStatusError(GRPC_STATUS.FAILED_PRECONDITION, "exec: no", [reason("EACCES")]),
      new RpcStatusError(GRPC_STATUS.NOT_FOUND, "no", [
        { typeUrl: reason("").typeUrl, value: Uint8Array.of(0xff) },
      ]),
    ]
    new TtrpcServer(there).add(Health, { check: () => Promise.reject(answers.shift()) })
    const failures = await Promise.all(
      Array.from(answers, () => client.unary(Health.method.check, {}).catch(e => e)),
    )
    expect(failures).toMatchObject([
      { code: "rpc", status: 13, message: "it broke", method: "grpc.Health/Check" },
      { code: "exec-not-found", status: 5, exitCode: 127 },
      { code: "exec-not-executable", status: 9, exitCode: 126 },
      { code: "rpc", status: 5 },
    ])
  })

  test("A3: a method the server does not have answers UNIMPLEMENTED", async () => {
    const [client, there] = connect()
    new TtrpcServer(there)
    await expect(client.unary(Health.method.check, {})).rejects.toMatchObject({
      status: GRPC_STATUS.UNIMPLEMENTED,
    })
  })

  test("A5: a reply that never comes ends with the timeout, and its late answer is dropped", async () => {
    const [client, there] = connect()
    await expect(client.unary(Health.method.check, {}, { timeoutMs: 5 })).rejects.toMatchObject({
      code: "timeout",
    })
    there.write(encodeFrame(1, MESSAGE_TYPE.response, 0, response({})))
    const next = client.unary(Health.method.check, {})
    there.write(encodeFrame(3, MESSAGE_TYPE.response, 0, response({})))
    await next
    expect(client.strayFrames).toBe(0)
    there.write(encodeFrame(1, MESSAGE_TYPE.response, 0, response({})))
    const last = client.unary(Health.method.check, {})
    there.write(encodeFrame(5, MESSAGE_TYPE.response, 0, response({})))
    await last
    expect(client.strayFrames).toBe(1)
  })

  test("a signal ends the call, before or after it was sent", async () => {
    const [client] = connect()
    const abort = new AbortController()
    const call = client.unary(Health.method.check, {}, { signal: abort.signal })
    abort.abort(new Error("enough"))
    await expect(call).rejects.toMatchObject({ code: "aborted", cause: { message: "enough" } })
    await expect(client.unary(Health.method.check, {}, { signal: abort.signal })).rejects.toMatchObject({
      code: "aborted",
    })
    expect(client.inFlight).toBe(0)
  })

  test("A8: when the connection goes, every call ends, and later ones do not start", async () => {
    const [client, there] = connect()
    const call = client.unary(Health.method.check, {}, { timeoutMs: 0 })
    there.end()
    await expect(call).rejects.toMatchObject({ code: "closed" })
    await expect(client.unary(Health.method.check, {})).rejects.toMatchObject({ code: "closed" })
    expect(await client.closed).toMatchObject({ code: "closed" })
  })

  test("A1: an oversized reply fails its own call only", async () => {
    const [client, there] = connect()
    const [first, second] = [client.unary(Health.method.check, {}), client.unary(Health.method.check, {})]
    const oversized = Buffer.alloc(10 + FRAME_DATA_MAX + 1)
    oversized.writeUInt32BE(FRAME_DATA_MAX + 1, 0)
    oversized.writeUInt32BE(1, 4)
    oversized.writeUInt8(MESSAGE_TYPE.response, 8)
    there.write(oversized)
    there.write(encodeFrame(3, MESSAGE_TYPE.response, 0, response({})))
    await expect(first).rejects.toMatchObject({ code: "frame-too-large" })
    await expect(second).resolves.toBeDefined()
  })

  test("refuses to send more than 4 MiB, and goes on", async () => {
    const [client, there] = connect()
    new TtrpcServer(there).add(Health, { check: () => create(HealthCheckResponseSchema) })
    const service = "x".repeat(FRAME_DATA_MAX)
    await expect(client.unary(Health.method.check, { service })).rejects.toMatchObject({
      code: "frame-too-large",
    })
    await expect(client.unary(Health.method.check, {})).resolves.toBeDefined()
  })

  test.each([
    ["an even stream id", 2, MESSAGE_TYPE.response],
    ["a stream that was never opened", 99, MESSAGE_TYPE.response],
    ["data on a unary stream", 1, MESSAGE_TYPE.data],
    ["a request", 1, MESSAGE_TYPE.request],
    ["an unknown type", 1, 77],
  ])("A2: %s closes the connection", async (_what, streamId, type) => {
    const [client, there] = connect()
    const call = client.unary(Health.method.check, {})
    there.write(encodeFrame(streamId, type, 0, response({})))
    await expect(call).rejects.toMatchObject({ code: "protocol" })
  })

  test("A2: a second answer to one call is ignored; a flood of them is not", async () => {
    const [client, there] = connect()
    const call = client.unary(Health.method.check, {})
    const answer = encodeFrame(1, MESSAGE_TYPE.response, 0, response({}))
    there.write(answer)
    there.write(answer)
    await call
    const pending = client.unary(Health.method.check, {})
    there.write(Buffer.concat(Array(10_001).fill(answer)))
    await expect(pending).rejects.toMatchObject({ code: "protocol" })
  })

  test("A3: an answer that does not decode fails its call only", async () => {
    const [client, there] = connect()
    const calls = [1, 2, 3].map(() => client.unary(Health.method.check, {}).catch(e => e))
    // 100,000 groups, one in the other.
    const nested = Buffer.alloc(100_000, 0x0b)
    there.write(encodeFrame(1, MESSAGE_TYPE.response, 0, nested))
    there.write(encodeFrame(3, MESSAGE_TYPE.response, 0, response({ payload: Uint8Array.of(0x08) })))
    there.write(encodeFrame(5, MESSAGE_TYPE.response, 0, response({})))
    expect(await Promise.all(calls)).toMatchObject([
      { code: "bad-reply" },
      { code: "bad-reply" },
      { status: 0 },
    ])
  })

  test("bounds the calls under way", async () => {
    const [client] = connect({ maxInFlight: 1 })
    const first = client.unary(Health.method.check, {})
    await expect(client.unary(Health.method.check, {})).rejects.toMatchObject({ code: "invalid-argument" })
    client.close()
    await expect(first).rejects.toMatchObject({ code: "closed" })
  })

  test("A2: whatever the other side sends, calls end with a GuestError or a reply and nothing is thrown", async () => {
    const chunk = fc.oneof(
      fc.uint8Array({ maxLength: 40 }),
      fc
        .record({ id: fc.nat(9), type: fc.nat(4), data: fc.uint8Array({ maxLength: 30 }) })
        .map(f => encodeFrame(f.id, f.type, 0, f.data)),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(chunk, { maxLength: 10 }), async chunks => {
        const [client, there] = connect()
        const calls = [1, 2, 3].map(() => client.unary(Health.method.check, {}).catch(e => e))
        for (const bytes of chunks) if (!there.destroyed) there.write(Buffer.from(bytes))
        if (!there.destroyed) there.end()
        const results = await Promise.all(calls)
        client.close()
        for (const result of results) expect(result instanceof GuestError || "status" in result).toBe(true)
      }),
      { numRuns: 200 },
    )
  })
})
