// Where what containers write lies: on a disk of the host or in the guest's RAM, with a limit.
import { execFileSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Sandbox, type SandboxOptions } from "@ts-vmm/runtime"
import { afterAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { PATIENCE_MS, underTest } from "./under-test.js"

const MIB = 1024 * 1024
const place = new Workplace()
const paths = { stateDir: place.stateDir, imageDir: TEST_IMAGE_DIR }
const image = `oci:${busyboxImage()}`
const create = (options: Partial<SandboxOptions>) =>
  Sandbox.create({ image, paths, ...underTest, ...options })

afterAll(() => {
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

/** Files without a name that a process has open where disks lie: with the images, or else with the sandboxes. */
function nameless(pid: number | "self" = "self"): string[] {
  const fds = `/proc/${pid}/fd`
  return readdirSync(fds).flatMap(fd => {
    try {
      const target = readlinkSync(join(fds, fd))
      const ours = [paths.imageDir, paths.stateDir].some(folder => target.startsWith(`${folder}/`))
      return ours && target.endsWith("(deleted)") ? [join(fds, fd)] : []
    } catch {
      return [] // closed meanwhile
    }
  })
}
function holds(pid: number, target: string): boolean {
  try {
    return nameless(pid).some(path => readlinkSync(path) === target)
  } catch {
    return false // it ended, or is not ours
  }
}
const bytesOnHost = () => nameless().reduce((sum, path) => sum + statSync(path).blocks * 512, 0)

test.each([{ kind: "disk", sizeMiB: 64 }, { kind: "memory" }] as const)(
  "files of the image and new ones are on one device, with numbers that last: $kind",
  async storage => {
    await using sandbox = await create({ storage })
    // Without such numbers the overlay gives each file of the image a device of its own.
    const script = "mkdir /new; touch /new/file; stat -c %d / /bin/busybox /new /new/file | sort -u | wc -l"
    expect((await sandbox.shell(script)).stdout).toBe("1\n")
  },
)

describe("a disk", () => {
  test("takes more than the guest has RAM, and gives it back when files are removed", async () => {
    await using sandbox = await create({ memoryMiB: 64, storage: { kind: "disk", sizeMiB: 512 } })
    const script = `cd /; dd if=/dev/urandom of=a bs=1M count=60 2>/dev/null; cp a b; sync; cmp a b && du -m a`
    expect((await sandbox.shell(script)).stdout).toBe("60\ta\n")
    expect(bytesOnHost()).toBeGreaterThan(118 * MIB)
    expect((await sandbox.shell("rm /a /b; sync")).exitCode).toBe(0)
    // The guest's kernel may discard what is free after it has said that all is written.
    await expect.poll(bytesOnHost, { timeout: PATIENCE_MS }).toBeLessThan(60 * MIB)
  })

  test("is full at its limit, inside as outside", async () => {
    await using sandbox = await create({ storage: { kind: "disk", sizeMiB: 48 } })
    const full = await sandbox.shell("dd if=/dev/zero of=/big bs=1M count=100; sync")
    expect(full.stderr).toContain("No space left on device")
    expect(bytesOnHost()).toBeLessThanOrEqual(48 * MIB)
    expect(bytesOnHost()).toBeGreaterThan(32 * MIB)
    expect((await sandbox.shell("rm /big; echo fits > /small; cat /small")).stdout).toBe("fits\n")
  })

  test("is shared by the containers of a sandbox, and emptied as they are removed", async () => {
    await using sandbox = await create({ storage: { kind: "disk", sizeMiB: 64 } })
    const one = await sandbox.createContainer({ command: ["sleep", "1000"] })
    const two = await sandbox.createContainer({ command: ["sleep", "1000"] })
    expect((await one.shell("mkdir -p /d/e; dd if=/dev/zero of=/d/e/big bs=1M count=40 2>&1")).exitCode).toBe(
      0,
    )
    const other = await two.shell("ls /d; dd if=/dev/zero of=/big bs=1M count=40; rm /big")
    expect(other.stderr).toMatch(/\/d: No such file.*No space left on device/s)
    await one.remove()
    expect((await two.shell("dd if=/dev/zero of=/big bs=1M count=40")).exitCode).toBe(0)
  })

  test("holds what an overlay needs: files of the image removed, folders made anew, setuid, attributes", async () => {
    await using sandbox = await create({ storage: { kind: "disk", sizeMiB: 64 } })
    const script = `rm -r /etc && mkdir /etc && ls -A /etc | wc -l; rm /bin/cat; ls /bin/cat
      mv /bin/busybox /bin/moved && cp /bin/moved /bin/busybox && chmod 4755 /bin/busybox && /bin/busybox stat -c %a /bin/busybox
      ln /bin/moved /linked && stat -c %h /linked; mkdir /s && chown 1000:1000 /s && chmod 1777 /s && stat -c '%u %a' /s`
    const { stdout } = await sandbox.shell(script)
    expect(stdout.split("\n").filter(line => line)).toEqual(["0", "4755", "2", "1000 1777"])
  })

  test("is gone after SIGKILL without anyone's doing", async () => {
    const args = [
      "run",
      "--rm",
      "--storage-opt",
      "size=64m",
      image,
      "sh",
      "-c",
      "df -m / | tail -1; sleep 1000",
    ]
    const child = place.start(args)
    const df = await new Promise<Buffer>(resolve => child.stdout.once("data", resolve))
    expect(Number(df.toString().split(/\s+/)[1])).toBeGreaterThan(50)
    expect(Number(df.toString().split(/\s+/)[1])).toBeLessThanOrEqual(64)
    const [disk, ...more] = nameless(child.pid as number).map(path => readlinkSync(path))
    expect([disk, more]).toEqual([expect.any(String), []])
    const ended = new Promise(resolve => child.once("close", resolve))
    child.kill("SIGKILL")
    await ended
    await expect.poll(() => place.leftProcesses(), { timeout: PATIENCE_MS }).toEqual([])
    const holders = readdirSync("/proc").filter(
      pid => /^\d+$/.test(pid) && holds(Number(pid), disk as string),
    )
    expect(holders).toEqual([])
    expect((await place.run(["prune"])).exitCode).toBe(0)
  })

  /** A file system that can be filled without harm takes a mount. */
  test.skipIf(process.getuid?.() !== 0)(
    "on a full host: an I/O error inside, `no-space` outside",
    async () => {
      const small = mkdtempSync(join(tmpdir(), "small-"))
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=24m", "small", small])
      try {
        const stored = { stateDir: place.stateDir, imageDir: join(small, "images") }
        mkdirSync(stored.imageDir, { mode: 0o700 })
        const errors: Error[] = []
        {
          await using sandbox = await create({ paths: stored, storage: { kind: "disk", sizeMiB: 256 } })
          sandbox.on("error", error => errors.push(error))
          const { exitCode } = await sandbox.shell("dd if=/dev/zero of=/big bs=1M count=60 conv=fsync")
          expect(exitCode).not.toBe(0)
        }
        expect(errors).toHaveLength(1)
        expect(errors[0]).toMatchObject({
          code: "no-space",
          message: expect.stringContaining(stored.imageDir),
        })
      } finally {
        execFileSync("umount", ["-l", small])
        rmSync(small, { recursive: true })
      }
    },
  )
})

describe("memory", () => {
  test("with a limit is full at it", async () => {
    await using sandbox = await create({ storage: { kind: "memory", sizeMiB: 8 } })
    const full = await sandbox.shell("dd if=/dev/zero of=/big bs=1M count=20; ls -l /big | awk '{print $5}'")
    expect(full.stderr).toContain("No space left on device")
    expect(Number(full.stdout)).toBeGreaterThan(7 * MIB)
    expect(Number(full.stdout)).toBeLessThanOrEqual(8 * MIB)
    expect(nameless()).toEqual([])
  })
})

test("disks that may do next to nothing: a guest does not get as far as its root", async () => {
  const diskLimit = { operationsPerSecond: 0.001, burstOperations: 1 }
  await expect(create({ diskLimit, timeoutMs: 5_000 })).rejects.toMatchObject({ code: "timeout" })
})

test("a limit that is none is refused", async () => {
  await expect(create({ diskLimit: { bytesPerSecond: 0 } })).rejects.toMatchObject({
    code: "invalid-argument",
    message: "diskLimit: bytesPerSecond must be a finite number more than 0",
  })
})

test("a limit that the disks stay below changes nothing", async () => {
  const storage = { kind: "disk", sizeMiB: 32 } as const
  await using sandbox = await create({
    storage,
    diskLimit: { bytesPerSecond: 1e9, operationsPerSecond: 1e6 },
  })
  const script = "dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; sync; wc -c </big"
  expect((await sandbox.shell(script)).stdout).toBe("8388608\n")
})

test.each([
  ["--disk-bps", "0"],
  ["--disk-bps", "fast"],
  ["--disk-iops", "0"],
  ["--disk-iops", "1.5"],
])("%s %s is refused", async (option, value) => {
  const { exitCode, stderr } = await place.run(["run", option, value, image, "true"])
  expect(exitCode).toBe(125)
  expect(stderr).toMatch(new RegExp(`^example-runtime: invalid ${option} "${value}": give [^\\n]+\n$`))
})

test.each(["1g", "size=", "size=1x", "inodes=5"])("--storage-opt %s is refused", async option => {
  const { exitCode, stderr } = await place.run(["run", "--storage-opt", option, image, "true"])
  expect({ exitCode, stderr }).toEqual({
    exitCode: 125,
    stderr: `example-runtime: invalid --storage-opt "${option}": give size=NUMBER with k, m, g or t\n`,
  })
})
