import { execFileSync } from "node:child_process"
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { probeKvm } from "@ts-vmm/runtime"
import { afterAll, afterEach, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { Workplace } from "./cli.js"
import { HYPERVISOR } from "./under-test.js"

const kvmUsable = (await probeKvm()).usable
const place = new Workplace()
const busybox = `oci:${busyboxImage()}`
const scratch = mkdtempSync(join(tmpdir(), "tsv-bad-"))

afterEach(() => {
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
})
afterAll(() => {
  place.remove()
  rmSync(scratch, { recursive: true, force: true })
})

/** Every mistake of a user's ends in one line on stderr, with the code docker would use. */
async function expectLine(
  args: string[],
  exitCode: number,
  line: RegExp,
  env: Record<string, string> = {},
): Promise<void> {
  const result = await place.run(args, { env })
  expect(result.stderr).toMatch(line)
  expect(result.stderr.trimEnd().split("\n")).toHaveLength(1)
  expect(result.stdout.toString()).toBe("")
  expect(result.exitCode).toBe(exitCode)
}

describe("bad use ends in one clear line and leaves nothing", () => {
  test("missing image", () =>
    expectLine(
      ["run", "--rm", "--pull", "never", "no/such:image"],
      125,
      /^example-runtime: no such image: no\/such:image .*\n$/,
    ))

  test("missing image of a registry that is not there", () =>
    expectLine(
      ["run", "--rm", "127.0.0.1:1/no/such:image"],
      125,
      /^example-runtime: cannot pull 127\.0\.0\.1:1\/no\/such:image: cannot reach .*\n$/,
    ))

  test("missing image folder", () =>
    expectLine(["run", "--rm", "oci:/no/such/folder"], 125, /^example-runtime: .*\/no\/such\/folder.*\n$/))

  test("I8: wrong digest", async () => {
    const copy = join(scratch, "corrupt")
    cpSync(busyboxImage(), copy, { recursive: true })
    corruptLargestBlob(join(copy, "blobs", "sha256"))
    await expectLine(["run", "--rm", `oci:${copy}`, "true"], 125, /^example-runtime: image .*digest.*\n$/, {
      TS_VMM_IMAGE_DIR: join(scratch, "store"),
    })
    expect(readdirSync(join(scratch, "store", "tmp"))).toEqual([])
  })

  test("no such command", () =>
    expectLine(
      ["run", "--rm", busybox, "nope"],
      127,
      /^example-runtime: exec: "nope": executable file not found in \$PATH\n$/,
    ))

  test.each([
    [["-v", "/tmp"], /invalid --volume "\/tmp": give SOURCE:TARGET/],
    [["-v", "/tmp:/x:rx"], /invalid --volume/],
    [["-v", "/no/such/folder:/x"], /the mount source \/no\/such\/folder does not exist/],
    [["-v", "/tmp:x"], /the mount target "x" is not an absolute path/],
    [["-p", "80"], /invalid --publish "80": give HOST:GUEST/],
    [["-p", "8080:80"], /a sandbox without a network has no ports: use --network passt/],
    [["--network", "passt", "-p", "70000:80"], /70000 is no port: give 1 to 65535/],
    [["--network", "bridge"], /unknown network "bridge": use none, passt, tap:NAME or cni:NAME/],
    [["--network", "cni:../lan"], /no name of a network: use cni:NAME/],
    [["--network", "tap:no-such-tap"], /--network tap:no-such-tap/],
    [["--disk", "/none:/d"], /the mount source \/none does not exist/],
    [["--disk", "/dev/null:/d:vmdk"], /invalid --disk/],
    [["--mount", "type=tmpfs,source=/,target=/d"], /unknown mount type "tmpfs"/],
    [["--memory-target", "1g", "-m", "256"], /memoryTargetMiB must be a whole number of MiB/],
  ])("run %j", (options, line) =>
    expectLine(
      ["run", "--rm", ...options, busybox, "true"],
      125,
      new RegExp(`^example-runtime: .*${line.source}.*\\n$`),
    ),
  )

  test("unknown option", () =>
    expectLine(["run", "--colour", busybox], 125, /^error: unknown option '--colour'\n$/))

  test("unknown command", () => expectLine(["fly"], 125, /^error: unknown command 'fly'\n$/))

  test("--memory 1", () =>
    expectLine(
      ["run", "--rm", "--memory", "1", busybox, "true"],
      125,
      /^example-runtime: .*at least (32|64) MiB\n$/,
    ))

  test("--memory nonsense", () =>
    expectLine(
      ["run", "--rm", "--memory", "lots", busybox, "true"],
      125,
      /^example-runtime: invalid --memory "lots".*\n$/,
    ))

  test("--cpus 2 on uml", () =>
    expectLine(
      ["run", "--rm", "--hypervisor", "uml", "--cpus", "2", busybox, "true"],
      125,
      /^example-runtime: the uml hypervisor runs one virtual CPU, not 2\n$/,
    ))

  test.skipIf(kvmUsable)("--hypervisor kvm where no stock kernel can boot (skipped where one can)", () =>
    expectLine(
      ["run", "--rm", "--hypervisor", "kvm", busybox, "true"],
      125,
      /^example-runtime: .*(KVM is not available|interprets guest code).*\n$/i,
    ),
  )

  test("unknown hypervisor", () =>
    expectLine(
      ["run", "--rm", "--hypervisor", "magic", busybox],
      125,
      /^example-runtime: unknown hypervisor "magic".*\n$/,
    ))

  test("kernel file missing", () =>
    expectLine(
      ["run", "--rm", "--kernel", "/no/kernel", busybox, "true"],
      125,
      /^example-runtime: guest kernel \/no\/kernel is missing.*\n$/,
    ))

  test("kernel file that is no kernel", async () => {
    const kernel = join(scratch, "kernel")
    writeFileSync(kernel, "#!/bin/sh\necho I am no kernel\nexit 9\n", { mode: 0o755 })
    await expectLine(
      ["run", "--rm", "--kernel", kernel, busybox, "true"],
      125,
      HYPERVISOR === "uml"
        ? /^example-runtime: the guest ended \(code 9\) before its agent was up; its last words: I am no kernel\n$/
        : /^example-runtime: the guest cannot be loaded: image is no ELF, bzImage or arm64 Image.*\n$/,
    )
  })

  test("socket path too long", async () => {
    const deep = join(scratch, "d".repeat(100))
    await expectLine(
      ["run", "--rm", busybox, "true"],
      125,
      /^example-runtime: the state folder's path is \d+ bytes long.*TS_VMM_STATE_DIR.*\n$/,
      { TS_VMM_STATE_DIR: deep },
    )
    expect(existsSync(deep)).toBe(false)
  })

  test("state folder open to others", async () => {
    const open = join(scratch, "open")
    mkdirSync(open, { mode: 0o777 })
    execFileSync("chmod", ["777", open])
    await expectLine(
      ["run", "--rm", busybox, "true"],
      125,
      /^example-runtime: .*open to other users; run chmod 700.*\n$/,
      { TS_VMM_STATE_DIR: open },
    )
  })

  test("invalid name", () =>
    expectLine(
      ["run", "--rm", "--name", "../x", busybox, "true"],
      125,
      /^example-runtime: invalid name ".*\n$/,
    ))

  test("invalid user", () =>
    expectLine(
      ["run", "--rm", "-u", "nobody-knows", busybox, "true"],
      125,
      /^example-runtime: .*nobody-knows.*\n$/,
    ))

  test("kill of nothing", async () => {
    const result = await place.run(["kill", "nothing"])
    expect(result.exitCode).toBe(1)
    expect(result.stderr).toContain("no such sandbox: nothing")
  })
})

describe.skipIf(process.getuid?.() !== 0)("a host that is full (needs root, to mount a small tmpfs)", () => {
  test("X1: out of disk while the image is stored", () =>
    withTmpfs("1m", async full => {
      await expectLine(
        ["run", "--rm", busybox, "true"],
        125,
        /^example-runtime: no space left while storing the image.*\n$/,
        { TS_VMM_IMAGE_DIR: full },
      )
    }))

  test("no space in /dev/shm", async () => {
    const script = `mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"`
    const { CLI } = await import("./cli.js")
    const child = execFileResult("unshare", [
      "-m",
      "sh",
      "-c",
      script,
      "sh",
      process.execPath,
      CLI,
      "run",
      "--rm",
      // The one that keeps guest RAM there.
      ...["--hypervisor", "uml"],
      busybox,
      "true",
    ])
    expect(child.stderr).toMatch(
      /^example-runtime: \/dev\/shm has \d+ MiB free and the guest wants 512 MiB: .*\n$/,
    )
    expect(child.status).toBe(125)
  })
})

function corruptLargestBlob(folder: string): void {
  const blobs = readdirSync(folder).map(name => join(folder, name))
  const largest = blobs.sort((a, b) => fileSize(b) - fileSize(a))[0] as string
  const bytes = readFileSync(largest)
  bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1)
  writeFileSync(largest, bytes)
}

function fileSize(path: string): number {
  return Number(execFileSync("stat", ["-c", "%s", path]).toString())
}

async function withTmpfs(size: string, work: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "tsv-full-"))
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${size}`, "tmpfs", folder])
  try {
    await work(folder)
  } finally {
    execFileSync("umount", [folder])
    rmSync(folder, { recursive: true })
  }
}

function execFileResult(command: string, args: string[]): { status: number; stderr: string } {
  try {
    execFileSync(command, args, { env: { ...process.env, ...place.env }, stdio: "pipe" })
    return { status: 0, stderr: "" }
  } catch (error) {
    const failure = error as { status: number; stderr: Buffer }
    return { status: failure.status, stderr: failure.stderr.toString() }
  }
}
