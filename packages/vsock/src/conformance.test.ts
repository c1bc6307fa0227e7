import {
  deviceConformance,
  direct,
  type MockDriver,
  overMmio,
  overVhostUser,
} from "@ts-vmm/virtio-devices/testing"
import { describe, expect, test } from "vitest"
import {
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_TYPE_STREAM,
  VMADDR_CID_HOST,
  VSOCK_HEADER_SIZE,
  VSOCK_RX_QUEUE,
  VSOCK_TX_QUEUE,
} from "./defs.js"
import { VsockDevice } from "./device.js"
import { emptyHeader, HeaderBuffer } from "./packet.js"

const PORT = 1024

function makeDevice(): VsockDevice {
  const device = new VsockDevice({ guestCid: 3 })
  device.listen(PORT, stream => stream.on("error", () => undefined).pipe(stream))
  return device
}

let nextPort = 1

/** The guest asks for a connection and gets it. */
async function works(driver: MockDriver): Promise<void> {
  const srcPort = nextPort++
  const codec = new HeaderBuffer()
  const addresses = { srcCid: 3, dstCid: VMADDR_CID_HOST, srcPort, dstPort: PORT }
  const header = {
    ...emptyHeader(),
    ...addresses,
    type: VIRTIO_VSOCK_TYPE_STREAM,
    op: VIRTIO_VSOCK_OP_REQUEST,
  }
  codec.encode(header)
  const answer = driver.writable(128)
  driver.post(VSOCK_RX_QUEUE, [answer])

  await driver.send(VSOCK_TX_QUEUE, [driver.readable(codec.bytes)])
  const used = await driver.nextUsed(VSOCK_RX_QUEUE)

  expect(used.length).toBe(VSOCK_HEADER_SIZE)
  codec.bytes.set(answer.bytes().subarray(0, VSOCK_HEADER_SIZE))
  codec.decode(header)
  expect(header).toMatchObject({ op: VIRTIO_VSOCK_OP_RESPONSE, srcPort: PORT, dstPort: srcPort })
}

describe.each([direct, overVhostUser, overMmio])("vsock device over $name", over => {
  const cases = deviceConformance({ makeDevice, over, works, requestQueues: [VSOCK_TX_QUEUE] })
  test.each(cases)("$name", ({ run }) => run())
})
