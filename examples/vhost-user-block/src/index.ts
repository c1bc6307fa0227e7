#!/usr/bin/env node
/**
 * Serves a disk image to QEMU or User Mode Linux over vhost-user.
 *
 * node dist/index.js DISK SOCKET [--read-only]
 */
import { parseArgs } from "node:util"
import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { serveVhostUser } from "@ts-vmm/virtio-devices/vhost-user"

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { "read-only": { type: "boolean", default: false } },
})
const [disk, socketPath] = positionals
if (disk === undefined || socketPath === undefined) {
  console.error("usage: vhost-user-block DISK SOCKET [--read-only]")
  process.exit(2)
}

try {
  const backend = openFileBackend(disk, { readOnly: values["read-only"] })
  const server = serveVhostUser(new BlockDevice(backend, { serial: "example" }), { socketPath })
  server.on("connected", () => console.error("front end connected"))
  server.on("disconnected", error => console.error(error?.message ?? "front end left"))
  server.on("deviceFailed", error => console.error(`guest fault: ${error.message}`))
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => server.close())
  console.error(`serving ${disk} at ${socketPath}`)
} catch (error) {
  console.error((error as Error).message)
  process.exitCode = 1
}
