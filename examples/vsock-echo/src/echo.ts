import { serveVhostUser, type VhostUserServer } from "@ts-vmm/virtio-devices/vhost-user"
import { VsockDevice, type VsockStream } from "@ts-vmm/vsock"

/** Host port of the service. */
export const ECHO_PORT = 7

/** A running echo service. */
export interface EchoService extends Disposable {
  readonly vsock: VsockDevice
  readonly server: VhostUserServer
}

/**
 * Serves a vsock device at `socketPath` to one virtual machine at a time; whatever its programs send to host
 * port 7 comes back to them.
 */
export function serveEcho(socketPath: string, report: (line: string) => void, guestCid = 3): EchoService {
  const vsock = new VsockDevice({ guestCid })
  vsock.listen(ECHO_PORT, stream => echo(stream, report))
  const server = serveVhostUser(vsock, { socketPath })
  return {
    vsock,
    server,
    [Symbol.dispose]() {
      server.close()
      vsock.close()
    },
  }
}

function echo(stream: VsockStream, report: (line: string) => void): void {
  let bytes = 0
  stream.on("data", (chunk: Buffer) => (bytes += chunk.length))
  stream.on("error", error => report(`guest port ${stream.remotePort}: ${error.message}`))
  stream.on("end", () => report(`guest port ${stream.remotePort}: ${bytes} bytes echoed`))
  stream.pipe(stream)
}
