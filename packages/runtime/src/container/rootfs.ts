import type { MessageInitShape } from "@bufbuild/protobuf"
import type { StorageSchema } from "@ts-vmm/guest"

type Storage = MessageInitShape<typeof StorageSchema>

/** Where the agent keeps everything of ours. */
const GUEST_DIR = "/run/tsvmm"
const IMAGE_DIR = `${GUEST_DIR}/image`
/** The image is the first block device. */
const IMAGE_DEVICE = "/dev/vda"

/** Guest path of a container's root file system. */
export function containerRoot(id: string): string {
  return `${GUEST_DIR}/containers/${id}/rootfs`
}

/** Mounted once a sandbox: the image, read-only, shared by its containers. */
export function sandboxStorages(): Storage[] {
  return [{ driver: "blk", source: IMAGE_DEVICE, fstype: "erofs", options: ["ro"], mountPoint: IMAGE_DIR }]
}

/**
 * Mounted once a container: a writable top in guest RAM over the image. It needs no limit of its own: guest
 * RAM is one.
 */
export function containerStorages(id: string): Storage[] {
  const top = `${GUEST_DIR}/containers/${id}/top`
  return [
    {
      driver: "tmpfs",
      source: "tmpfs",
      fstype: "tmpfs",
      options: ["size=100%", "mode=755"],
      mountPoint: top,
    },
    {
      driver: "overlayfs",
      source: "overlay",
      fstype: "overlay",
      options: [`lowerdir=${IMAGE_DIR}`, `upperdir=${top}/upper`, `workdir=${top}/work`],
      mountPoint: containerRoot(id),
    },
  ]
}
