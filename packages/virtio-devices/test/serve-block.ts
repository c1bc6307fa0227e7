/** A back end to be killed: serves the disk image argv[2] at the socket argv[3], with argv[4] threads. */
import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { serveVhostUser } from "@ts-vmm/virtio-devices/vhost-user"

const [, , image, socketPath, threads] = process.argv
const device = new BlockDevice(openFileBackend(image!), { threads: Number(threads) })
serveVhostUser(device, { socketPath: socketPath! })
process.stdout.write("ready\n")
