import { createHash, randomBytes } from "node:crypto"
import { probeKvm } from "@ts-vmm/runtime"
import { afterAll, describe, expect, test } from "vitest"
import { busyboxImage, layeredImage, pythonImage } from "../fixtures/images.js"
import { Workplace } from "./cli.js"
import { HYPERVISOR, LONG_TEST_MS } from "./under-test.js"

const place = new Workplace()
const busybox = `oci:${busyboxImage()}`
const python = `oci:${pythonImage()}`

afterAll(() => {
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

describe("exit codes", () => {
  test.each([
    ["true", 0],
    ["exit 3", 3],
    // PID 1 of a container cannot kill itself; a child of it can.
    ["sh -c 'kill -9 $$'; exit $?", 137],
    ["sh -c 'kill -TERM $$'; exit $?", 143],
  ])("sh -c '%s' ends with %i", async (script, code) => {
    const result = await place.run(["run", "--rm", busybox, "sh", "-c", script])
    expect(result.exitCode).toBe(code)
  })

  test("a program that is not there is 127 with one line", async () => {
    const result = await place.run(["run", "--rm", busybox, "no-such-program"])
    expect(result.exitCode).toBe(127)
    expect(result.stderr).toBe(
      'example-runtime: exec: "no-such-program": executable file not found in $PATH\n',
    )
  })

  test("a file that cannot be executed is 126 with one line", async () => {
    const result = await place.run(["run", "--rm", busybox, "/etc/passwd"])
    expect(result.exitCode).toBe(126)
    expect(result.stderr).toMatch(/^example-runtime: .*permission denied\n$/)
  })
})

describe("stdio", () => {
  test("stdin is piped in, byte for byte", async () => {
    const input = randomBytes(3 * 1024 * 1024)
    const result = await place.run(["run", "-i", "--rm", busybox, "cat"], { input })
    expect(result.exitCode).toBe(0)
    expect(sha256(result.stdout)).toBe(sha256(input))
  })

  test("without -i the program sees the end of stdin at once", async () => {
    const result = await place.run(["run", "--rm", busybox, "cat"], { input: "not to be seen" })
    expect(result).toMatchObject({ exitCode: 0, stdout: Buffer.alloc(0) })
  })

  test("64 MiB of stdout arrive without a lost byte", { timeout: LONG_TEST_MS }, async () => {
    const script =
      "import sys,hashlib\nd=hashlib.sha256()\nfor i in range(1024):\n b=(b'%08d'%i)*8192\n d.update(b)\n sys.stdout.buffer.write(b)\nsys.stdout.flush()\nsys.stderr.write(d.hexdigest())"
    const result = await place.run(["run", "--rm", python, "python3", "-c", script])
    expect(result.exitCode).toBe(0)
    expect(result.stdout.length).toBe(64 * 1024 * 1024)
    expect(result.stderr).toBe(sha256(result.stdout))
  })

  test("stderr is apart from stdout", async () => {
    const result = await place.run(["run", "--rm", busybox, "sh", "-c", "echo out; echo err >&2"])
    expect(result).toMatchObject({ exitCode: 0, stdout: Buffer.from("out\n"), stderr: "err\n" })
  })

  test("/dev/stdout can be opened again", async () => {
    const result = await place.run(["run", "--rm", busybox, "sh", "-c", "echo again > /dev/stdout"])
    expect(result).toMatchObject({ exitCode: 0, stdout: Buffer.from("again\n") })
  })

  test("a reader that goes away ends the run", async () => {
    const child = place.start(["run", "--rm", busybox, "yes"])
    await new Promise(resolve => child.stdout.once("data", resolve))
    child.stdout.destroy()
    const code = await new Promise(resolve => child.once("close", resolve))
    expect(code).toBe(141)
  })
})

describe("what the container is", () => {
  test("env, working directory, user and host name are the caller's", async () => {
    const script = 'echo "$A|$B|$(pwd)|$(id -u):$(id -g)|$(hostname)"'
    const result = await place.run([
      "run",
      "--rm",
      "-e",
      "A=1",
      "-e",
      "B=x=y z",
      "-w",
      "/some/where",
      "-u",
      "1000:2000",
      "--hostname",
      "box",
      busybox,
      "sh",
      "-c",
      script,
    ])
    expect(result.stdout.toString()).toBe("1|x=y z|/some/where|1000:2000|box\n")
  })

  test("env, entrypoint, cmd, working directory and user come from the image", async () => {
    const image = `oci:${layeredImage()}`
    const asIs = await place.run(["run", "--rm", image])
    expect(asIs.stdout.toString()).toBe("entry from image\n")
    const otherCommand = await place.run(["run", "--rm", image, "other"])
    expect(otherCommand.stdout.toString()).toBe("entry other\n")
    const script = 'echo "$COLOUR|$(pwd)|$(id -un)"'
    const otherEntrypoint = await place.run(["run", "--rm", "--entrypoint", "/bin/sh", image, "-c", script])
    expect(otherEntrypoint.stdout.toString()).toBe("from the image|/home/alice|alice\n")
  })

  test("a user is looked up in the image by name", async () => {
    const result = await place.run([
      "run",
      "--rm",
      "-u",
      "nobody",
      python,
      "python3",
      "-c",
      "import os; print(os.getuid(), os.getgid(), os.environ['HOME'])",
    ])
    expect(result.stdout.toString()).toBe("65534 65534 /nonexistent\n")
  })

  test("the kernel is the guest's own, and the program is PID 1", async () => {
    const result = await place.run(["run", "--rm", busybox, "sh", "-c", "uname -r; echo $$"])
    expect(result.stdout.toString()).toMatch(/^7\.\d+\.\d+\n1\n$/)
  })

  test("the root file system takes 256 MiB and gives them back", { timeout: LONG_TEST_MS }, async () => {
    const script =
      'dd if=/dev/urandom of=/big bs=1M count=256 2>/dev/null; sync; a=$(sha256sum < /big); echo 3 > /dev/null; b=$(sha256sum < /big); [ "$a" = "$b" ] && stat -c %s /big'
    const result = await place.run(["run", "--rm", "--memory", "768", busybox, "sh", "-c", script])
    expect(result).toMatchObject({ exitCode: 0, stdout: Buffer.from("268435456\n") })
  })

  test("--read-only refuses writes", async () => {
    const result = await place.run(["run", "--rm", "--read-only", busybox, "sh", "-c", "touch /x"])
    expect(result.exitCode).toBe(1)
    expect(result.stderr).toContain("Read-only file system")
  })

  test("one run sees nothing of another", async () => {
    await place.run(["run", "--rm", busybox, "sh", "-c", "echo secret > /secret"])
    const result = await place.run(["run", "--rm", busybox, "ls", "/secret"])
    expect(result.exitCode).toBe(1)
  })
})

describe("options", () => {
  // The KVM test host's kernel lacks what this mode of UML needs; it has nothing to do with KVM.
  test.skipIf(HYPERVISOR !== "uml")("--uml-mode seccomp runs the same", async () => {
    const result = await place.run([
      "run",
      "--hypervisor",
      "uml",
      "--rm",
      "--uml-mode",
      "seccomp",
      busybox,
      "sh",
      "-c",
      "echo $((6 * 7)); exit 3",
    ])
    expect(result).toMatchObject({ exitCode: 3, stdout: Buffer.from("42\n"), stderr: "" })
  })

  test("--json says how it ended and when it was ready", async () => {
    const result = await place.run(["run", "--rm", "--json", busybox, "sh", "-c", "exit 4"])
    const line = JSON.parse(result.stderr)
    expect(line).toMatchObject({ event: "exit", exitCode: 4 })
    expect(line.timings.readyMs).toBeGreaterThan(line.timings.machineMs)
  })

  test("C3: --debug shows the guest's console escaped, as JSON lines", async () => {
    const result = await place.run(["run", "--rm", "--debug", busybox, "true"])
    const lines = result.stderr
      .trim()
      .split("\n")
      .map(line => JSON.parse(line))
    expect(lines.map(line => line.msg)).toContain("ready")
  })

  test("--memory is what the guest has", async () => {
    const script = "awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo"
    const result = await place.run(["run", "--rm", "-m", "1g", busybox, "sh", "-c", script])
    expect(Number(result.stdout)).toBeGreaterThan(900)
    expect(Number(result.stdout)).toBeLessThan(1024)
  })
})

describe("the host", () => {
  test("doctor says what works, why kvm does not where it does not, and what auto takes, by running guests", async () => {
    const probes = JSON.parse((await place.run(["doctor", "--json"])).stdout.toString())
    const kvm = (await probeKvm()).usable
    expect(probes).toMatchObject([
      { hypervisor: "kvm", usable: kvm, chosen: kvm },
      { hypervisor: "uml (ptrace)", usable: true, chosen: !kvm },
      { hypervisor: "uml (seccomp)", usable: kvm ? expect.any(Boolean) : true, chosen: false },
    ])
    const text = await place.run(["doctor"])
    expect(text.exitCode).toBe(0)
    expect(text.stdout.toString()).toMatch(
      /^uml \(ptrace\) +works: a guest ran its first program and ended within \d+ ms/m,
    )
  })

  test("images lists what was run", async () => {
    const list = JSON.parse((await place.run(["images", "--json"])).stdout.toString())
    expect(list.length).toBeGreaterThan(0)
    expect(list[0].digest).toMatch(/^sha256:[0-9a-f]{64}$/)
    expect((await place.run(["images"])).stdout.toString()).toMatch(/^NAME +IMAGE ID +LAYERS +SIZE/)
    expect((await place.run(["images", "-q"])).stdout.toString()).toMatch(/^([0-9a-f]{12}\n)+$/)
  })

  test("version names this program and node", async () => {
    expect((await place.run(["version"])).stdout.toString()).toMatch(/^example-runtime \d.*\nnode \d/)
  })
})

describe("several", () => {
  test("ten sandboxes at once", { timeout: LONG_TEST_MS }, async () => {
    const runs = Array.from({ length: 10 }, (_, i) =>
      place.run(["run", "--rm", "--memory", "128", busybox, "sh", "-c", `sleep 1; echo ${i}; exit ${i}`]),
    )
    const results = await Promise.all(runs)
    expect(results.map(one => [one.exitCode, one.stdout.toString(), one.stderr])).toEqual(
      results.map((_, i) => [i, `${i}\n`, ""]),
    )
  })
})

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex")
}
