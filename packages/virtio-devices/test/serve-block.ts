/** A back end to be killed: serves the disk image argv[2] at the socket argv[3]. */
import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { serveVhostUser } from "@ts-vmm/virtio-devices/vhost-user"

const [, , image, socketPath] = process.argv
serveVhostUser(new BlockDevice(openFileBackend(image!)), { socketPath: socketPath! })
process.stdout.write("ready\n")
