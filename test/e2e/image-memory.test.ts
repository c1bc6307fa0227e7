// An image that is memory of the guest's (virtio-pmem, DAX), beside the same image as a disk.
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, describe, expect, test } from "vitest"
import { busyboxImage, pythonImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { HYPERVISOR, RUN_OPTIONS, underTest } from "./under-test.js"

const MIB = 1024
const stateDir = mkdtempSync(join(tmpdir(), "tsv-"))
const paths = { stateDir, imageDir: TEST_IMAGE_DIR }
const place = new Workplace()
afterAll(() => {
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
  rmSync(stateDir, { recursive: true })
})

const create = (imageDevice: "blk" | "pmem", image = pythonImage()) =>
  Sandbox.create({ image: `oci:${image}`, paths, imageDevice, ...underTest })

const shell = async (sandbox: Sandbox, script: string) =>
  (await sandbox.shell(script, { check: true })).stdout

/** Reads programs of the image; what they are, and by how many KiB the guest's page cache grew. */
async function readAll(imageDevice: "blk" | "pmem"): Promise<{ digest: string; grewKiB: number }> {
  await using sandbox = await create(imageDevice)
  const cached = async () =>
    Number(await shell(sandbox, "awk '$1 == \"Cached:\" { print $2 }' /proc/meminfo"))
  const before = await cached()
  const files = "find /usr/bin -xdev -type f -print0"
  const digest = await shell(sandbox, `${files} | sort -z | xargs -0 sha256sum | sha256sum`)
  return { digest, grewKiB: (await cached()) - before }
}

describe.runIf(HYPERVISOR === "kvm")("an image that is memory", () => {
  test("reads as the disk does, and the guest has no copy of its files", async () => {
    const [disk, memory] = [await readAll("blk"), await readAll("pmem")]
    console.log(`page cache of the guest: ${disk.grewKiB} KiB by the disk, ${memory.grewKiB} KiB by memory`)
    expect(memory.digest).toBe(disk.digest)
    expect(disk.grewKiB).toBeGreaterThan(10 * MIB)
    expect(memory.grewKiB).toBeLessThan(0.1 * disk.grewKiB)
  })

  test("is below the containers' own files as any image is", async () => {
    await using sandbox = await create("pmem", busyboxImage())
    const script =
      "echo mine > /bin/busybox.txt; cp /bin/busybox /copy; echo x >> /copy; cat /bin/busybox.txt; rm /bin/ls; ls /bin/ls"
    const { stdout, stderr } = await sandbox.shell(script)
    expect(stdout).toBe("mine\n")
    expect(stderr).toContain("No such file")
    const second = await sandbox.createContainer({ command: ["cat", "/bin/busybox.txt"] })
    expect((await second.init.wait()).exitCode).toBe(1)
  })

  test("runs from the command line", async () => {
    const args = ["run", "--rm", ...RUN_OPTIONS, "--image-device", "pmem", `oci:${busyboxImage()}`]
    const { exitCode, stdout } = await place.run([...args, "sh", "-c", "echo it runs; exit 3"])
    expect([exitCode, stdout.toString()]).toEqual([3, "it runs\n"])
  })
})

test.runIf(HYPERVISOR === "uml")("on User Mode Linux it is refused in one line", async () => {
  const args = ["run", "--rm", ...RUN_OPTIONS, "--image-device", "pmem", `oci:${busyboxImage()}`]
  const { exitCode, stderr } = await place.run(args)
  expect(exitCode).toBe(125)
  expect(stderr).toMatch(
    /^example-runtime: the uml hypervisor maps nothing into its guests: .*imageDevice pmem.* for kvm\n$/,
  )
})
