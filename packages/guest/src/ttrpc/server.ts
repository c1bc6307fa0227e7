import type { Duplex } from "node:stream"
import { create, type DescService, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf"
import { RequestSchema, ResponseSchema } from "../gen/ttrpc_pb.js"
import { encodeFrame, type Frame, FrameDecoder, MESSAGE_TYPE } from "./frame.js"
import { GRPC_STATUS } from "./status.js"

/** Handlers for some methods of a service; the others answer UNIMPLEMENTED. */
export type ServiceHandlers<S extends DescService> = {
  [M in keyof S["method"]]?: (
    request: MessageShape<S["method"][M]["input"]>,
  ) => Promise<MessageShape<S["method"][M]["output"]>> | MessageShape<S["method"][M]["output"]>
}

type AnyHandler = (payload: Uint8Array) => Promise<Uint8Array>

/** Thrown by a handler to answer with a gRPC status of its choice. */
export class RpcStatusError extends Error {
  readonly status: number
  readonly details: { typeUrl: string; value: Uint8Array }[]
  constructor(status: number, message: string, details: { typeUrl: string; value: Uint8Array }[] = []) {
    super(message)
    this.status = status
    this.details = details
  }
}

/**
 * A small ttrpc server over one connection: enough to stand in for the agent in tests.
 *
 * @example
 * ```ts
 * new TtrpcServer(stream).add(Health, { check: () => create(HealthCheckResponseSchema, { status: 1 }) })
 * ```
 */
export class TtrpcServer {
  readonly #stream: Duplex
  readonly #handlers = new Map<string, AnyHandler>()
  #lastId = 0

  constructor(stream: Duplex) {
    this.#stream = stream
    const decoder = new FrameDecoder({
      frame: frame => void this.#onFrame(frame),
      oversized: id => this.#answer(id, GRPC_STATUS.RESOURCE_EXHAUSTED, "request is too long"),
      broken: () => stream.destroy(),
    })
    stream.on("data", (chunk: Uint8Array) => decoder.push(chunk))
    stream.on("error", () => stream.destroy())
  }

  /** Adds handlers for a generated service description. */
  add<S extends DescService>(service: S, handlers: ServiceHandlers<S>): this {
    for (const method of service.methods) {
      const handler = handlers[method.localName as keyof S["method"]] as ((r: unknown) => unknown) | undefined
      if (!handler) continue
      this.#handlers.set(`${service.typeName}/${method.name}`, async payload =>
        toBinary(method.output, (await handler(fromBinary(method.input, payload))) as never),
      )
    }
    return this
  }

  async #onFrame(frame: Frame): Promise<void> {
    if (frame.type !== MESSAGE_TYPE.request) return
    const { streamId } = frame
    if (streamId % 2 === 0 || streamId <= this.#lastId) {
      this.#answer(streamId, GRPC_STATUS.INVALID_ARGUMENT, "stream ids are odd and rise")
      return
    }
    this.#lastId = streamId
    try {
      const request = fromBinary(RequestSchema, frame.data)
      const handler = this.#handlers.get(`${request.service}/${request.method}`)
      if (!handler)
        throw new RpcStatusError(GRPC_STATUS.UNIMPLEMENTED, `${request.service}/${request.method}`)
      this.#answer(streamId, GRPC_STATUS.OK, "", await handler(request.payload))
    } catch (error) {
      const { status = GRPC_STATUS.UNKNOWN, message, details = [] } = error as Partial<RpcStatusError>
      this.#answer(streamId, status, message ?? "", undefined, details)
    }
  }

  #answer(
    id: number,
    code: number,
    message: string,
    payload: Uint8Array = new Uint8Array(),
    details: RpcStatusError["details"] = [],
  ): void {
    if (this.#stream.destroyed) return
    const status = code === GRPC_STATUS.OK ? {} : { status: { code, message, details } }
    const data = toBinary(ResponseSchema, create(ResponseSchema, { ...status, payload }))
    this.#stream.write(encodeFrame(id, MESSAGE_TYPE.response, 0, data))
  }
}
