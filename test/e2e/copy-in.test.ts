// Files copied into containers and out of them, by the SDK and by `cp`.
import { execFileSync } from "node:child_process"
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Container, Sandbox, unpackCopy } from "@ts-vmm/runtime"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { collect, TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { LONG_TEST_MS, underTest } from "./under-test.js"

const place = new Workplace()
const paths = { stateDir: place.stateDir, imageDir: TEST_IMAGE_DIR }
const image = `oci:${busyboxImage()}`
const folder = mkdtempSync(join(tmpdir(), "tsv-copy-"))
const isRoot = process.getuid?.() === 0

beforeAll(() => {
  const tree = join(folder, "tree")
  mkdirSync(join(tree, "deep/er"), { recursive: true })
  writeFileSync(join(tree, "text"), "text\n")
  linkSync(join(tree, "text"), join(tree, "deep/hard"))
  symlinkSync("../text", join(tree, "deep/soft"))
  symlinkSync("/etc/passwd", join(tree, "absolute"))
  writeFileSync(join(tree, `deep/er/${"n".repeat(140)}`), "long")
  writeFileSync(join(tree, "sparse"), "begin")
  truncateSync(join(tree, "sparse"), 8_000_000)
  writeFileSync(join(tree, "sparse"), "end", { flag: "a" })
  execFileSync("mkfifo", [join(tree, "pipe")])
  if (isRoot) chownSync(join(tree, "text"), 1234, 2345)
  chmodSync(join(tree, "text"), 0o4640)
  utimesSync(join(tree, "text"), 1_000_000_000, 1_234_567_890.25)
  utimesSync(join(tree, "deep"), 1_000_000_000, 1_300_000_000)
  symlinkSync("tree", join(folder, "link"))
  writeFileSync(join(folder, "file"), "file\n")
})

afterAll(() => {
  rmSync(folder, { recursive: true })
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

async function withContainer(options: object, use: (container: Container) => Promise<void>): Promise<void> {
  await using sandbox = await Sandbox.create({ image, paths, ...options, ...underTest })
  await use(await sandbox.createContainer({ command: ["sleep", "1000"] }))
}

/** Every file below a folder: kind, mode, links, size, time, text. */
function described(root: string, at = ""): string[] {
  return readdirSync(join(root, at)).flatMap(name => {
    const path = join(at, name)
    const stat = lstatSync(join(root, path))
    const text = stat.isSymbolicLink() ? readlinkSync(join(root, path)) : ""
    const line = `${path} ${stat.mode.toString(8)} ${stat.isDirectory() ? "" : `${stat.nlink} ${stat.size}`} ${stat.mtimeMs} ${text}`
    return stat.isDirectory() ? [line, ...described(root, path)] : [line]
  })
}

async function tarOf(stream: AsyncIterable<Buffer>, ...options: string[]): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return execFileSync("tar", [...options, "-f", "-"], { input: Buffer.concat(chunks), encoding: "utf8" })
}

describe.each([{ storage: { kind: "memory" } }, { storage: { kind: "disk", sizeMiB: 64 } }])(
  "with %j",
  storage => {
    test("a folder goes in and comes out as it was", async () => {
      await withContainer(storage, async container => {
        const { bytes } = await container.copyIn(join(folder, "tree"), "/new")
        expect(bytes).toBeGreaterThan(8_000_000)
        const { stdout } = await container.shell(
          "cd /new; stat -c '%a %u:%g %Y %h' text; stat -c %b sparse; cat deep/soft; tail -c 3 sparse; stat -c %F pipe",
        )
        const [text, blocks, ...rest] = stdout.split("\n")
        expect(text).toBe("4640 0:0 1234567890 2")
        expect(Number(blocks)).toBeLessThan(1000)
        expect(rest.join("\n")).toBe("text\nendfifo\n")
        const back = join(folder, `back-${storage.storage.kind}`)
        const skipped: string[] = []
        const options = { path: "/new", onSkip: (one: string) => skipped.push(one) }
        await unpackCopy(container.copyOut("/new"), back, options)
        expect(skipped).toEqual(['"new/pipe"'])
        const before = described(join(folder, "tree")).filter(line => !line.startsWith("pipe "))
        // Rights of others are not taken from a guest.
        expect(described(back)).toEqual(before.map(line => line.replace(" 104640 ", " 100640 ")))
        expect(readFileSync(join(back, "sparse")).equals(readFileSync(join(folder, "tree/sparse")))).toBe(
          true,
        )
      })
    })
  },
)

test("owners, links as sources, contents, archives, and programs that run meanwhile", async () => {
  await withContainer({}, async container => {
    await container.copyIn(join(folder, "tree"), "/a", { archive: true })
    await container.copyIn(join(folder, "link"), "/b", { followLink: true })
    await container.copyIn(join(folder, "link"), "/tmp")
    await container.copyIn(`${folder}/tree/.`, "/tmp")
    const packed = execFileSync("tar", [
      "-z",
      "-S",
      "--owner=77",
      "--group=88",
      "-C",
      folder,
      "-c",
      "tree/text",
      "tree/sparse",
    ])
    async function* archive() {
      yield packed
    }
    await container
      .copyIn(archive(), "/srv")
      .catch(error => expect(error.message).toContain("no such directory"))
    await container.shell("mkdir /srv; ln -s srv /www", { check: true })
    await container.copyIn(archive(), "www", { archive: true })
    const { stdout } =
      await container.shell(`stat -c %u:%g /a/text /srv/tree/text; ls -d /b/text /tmp/text; readlink /tmp/link
      stat -c %a /tmp; md5sum </srv/tree/sparse`)
    const sparse = execFileSync("md5sum", {
      input: readFileSync(join(folder, "tree/sparse")),
      encoding: "utf8",
    })
    const owner = isRoot ? "1234:2345" : `${process.getuid?.()}:${process.getgid?.()}`
    expect(stdout).toBe(`${owner}\n77:88\n/b/text\n/tmp/text\ntree\n1777\n${sparse}`)
    await expect(container.copyIn(join(folder, "none"), "/")).rejects.toMatchObject({
      code: "copy-failed",
      message: expect.stringContaining("no such file or folder"),
    })
    await expect(container.copyIn("/dev/null", "/tmp")).rejects.toMatchObject({ code: "copy-failed" })
    const signal = AbortSignal.abort()
    await expect(container.copyIn(join(folder, "file"), "/", { signal })).rejects.toMatchObject({
      code: "aborted",
    })
    expect((await container.exec("echo", ["alive"])).stdout).toBe("alive\n")
  })
})

test("a stream that fails or never goes on leaves the sandbox as able as before", async () => {
  await withContainer({}, async container => {
    async function* failing() {
      yield execFileSync("tar", ["-C", folder, "-c", "file"]).subarray(0, 600)
      throw new RangeError("mine")
    }
    async function* stuck() {
      yield execFileSync("tar", ["-C", folder, "-c", "file"]).subarray(0, 600)
      await new Promise(() => undefined)
    }
    for (let i = 0; i < 20; i++) await expect(container.copyIn(failing(), "/tmp")).rejects.toThrow(RangeError)
    for (let i = 0; i < 20; i++)
      await expect(container.copyIn(stuck(), "/tmp", { timeoutMs: 50 })).rejects.toMatchObject({
        code: "timeout",
      })
    await container.copyIn(join(folder, "file"), "/tmp/file")
    expect((await container.exec("cat", ["/tmp/file"])).stdout).toBe("file\n")
  })
})

test("a full disk and full memory are said, and the sandbox goes on; a read-only root refuses, its mounts do not", async () => {
  const big = join(folder, "big")
  writeFileSync(big, Buffer.alloc(40_000_000, 1))
  await withContainer({ storage: { kind: "disk", sizeMiB: 16 } }, async container => {
    await expect(container.copyIn(big, "/tmp")).rejects.toMatchObject({
      code: "agent-failed",
      message: '"big": No space left on device',
    })
    expect((await container.exec("ls", ["/tmp"])).stdout).toBe("")
  })
  await withContainer({ memoryMiB: 96 }, async container => {
    const { stdout } = await container.shell("awk '/MemTotal/ { print $2 }' /proc/meminfo", { check: true })
    writeFileSync(big, Buffer.alloc(Number(stdout) * 1024, 1))
    await expect(container.copyIn(big, "/tmp")).rejects.toMatchObject({
      code: "agent-failed",
      message: '"big": the guest\'s memory is full',
    })
    expect((await container.exec("ls", ["/tmp"])).stdout).toBe("")
  })
  const mounted = join(folder, "mounted")
  mkdirSync(mounted)
  await using sandbox = await Sandbox.create({
    image,
    paths,
    mounts: [{ source: mounted, target: "/mnt/rw" }],
    ...underTest,
  })
  const container = await sandbox.createContainer({ command: ["sleep", "1000"], readOnlyRoot: true })
  await expect(container.copyIn(join(folder, "file"), "/tmp")).rejects.toMatchObject({
    message: expect.stringContaining("the file system is read-only"),
  })
  await container.copyIn(join(folder, "file"), "/mnt/rw")
  expect(readFileSync(join(mounted, "file"), "utf8")).toBe("file\n")
  expect(await tarOf(container.copyOut("/mnt/rw"), "-t")).toBe("rw/\nrw/file\n")
  await sandbox.copyIn(join(folder, "file"), "/main")
  expect(await tarOf(sandbox.copyOut("/main"), "-xO")).toBe("file\n")
})

describe("cp on the command line", () => {
  test("copies in and out of a sandbox of another process; names cannot steer the terminal", {
    timeout: LONG_TEST_MS,
  }, async () => {
    const script = `mkdir -p /d/e; echo text >/d/e/f; ln -s /d /l; mkfifo "/d/p$(printf '\\033[31m')"; echo up; sleep 1000`
    const child = place.start(["run", "--rm", "--name", "copied", image, "sh", "-c", script])
    await new Promise(resolve => child.stdout.once("data", resolve))
    const cp = async (args: readonly string[], input?: Buffer) => {
      const { exitCode, stdout, stderr } = await place.run(["cp", ...args], input ? { input } : {})
      return { exitCode, stdout: stdout.toString(), stderr }
    }
    const fine = { exitCode: 0, stdout: "", stderr: "" }
    const out = join(folder, "out")
    mkdirSync(out)

    expect(await cp([join(folder, "file"), "copied:/d/e/in"])).toEqual(fine)
    expect(await cp(["-q", "copied:/d/e/in", join(out, "renamed")])).toEqual(fine)
    expect(readFileSync(join(out, "renamed"), "utf8")).toBe("file\n")
    expect(await cp(["copied:/d", out])).toEqual({
      ...fine,
      stderr: 'example-runtime: left out "d/p\\x1b[31m": a device or FIFO\n',
    })
    expect(readdirSync(join(out, "d/e")).sort()).toEqual(["f", "in"])
    expect(await cp(["-L", "copied:/l/e/.", join(out, "contents")])).toEqual(fine)
    expect(readdirSync(join(out, "contents")).sort()).toEqual(["f", "in"])
    const json = await cp(["--json", join(folder, "tree"), "copied:/tree"])
    expect(JSON.parse(json.stdout)).toEqual({ bytes: expect.any(Number) })

    const archive = execFileSync("tar", ["-C", folder, "-c", "file"])
    expect(await cp(["-", "copied:/d"], archive)).toEqual(fine)
    const { stdout } = await place.run(["cp", "copied:d/file", "-"])
    expect(execFileSync("tar", ["-xOf", "-"], { input: stdout, encoding: "utf8" })).toBe("file\n")

    const refused: readonly (readonly [readonly string[], string])[] = [
      [["copied:/none", out], "no such file in the container: /none"],
      [["copied:/d", join(out, "renamed")], `${join(out, "renamed")}: cannot copy a directory to a file`],
      [["copied:/d/e/f", join(out, "no/where")], `${join(out, "no")}: no such directory`],
      [[join(folder, "tree"), "copied:/d/e/f"], '"/d/e/f": cannot copy a directory to a file'],
      [[join(folder, "file"), "copied:/no/where"], '"/no/": no such directory'],
      [[join(folder, "none"), "copied:/"], `no such file or folder: "${join(folder, "none")}"`],
      [["copied:/a", "copied:/b"], "copying between sandboxes is not supported"],
      [["a", "b"], "one side has to be SANDBOX:PATH"],
      [["copied:", "b"], 'invalid "copied:": give SANDBOX:PATH, or a path that begins with / or .'],
      [["nobody:/x", out], "no such sandbox: nobody"],
    ]
    for (const [args, message] of refused)
      expect(await cp(args)).toEqual({ exitCode: 125, stdout: "", stderr: `example-runtime: ${message}\n` })
    expect(await cp(["-", "copied:/d"], Buffer.from("no archive"))).toMatchObject({ exitCode: 125 })

    // A copy that is broken off leaves the sandbox able to copy.
    const broken = place.start(["cp", "-", "copied:/d"])
    broken.stdin.write(archive.subarray(0, 600))
    await new Promise(resolve => setTimeout(resolve, 500))
    broken.kill("SIGKILL")
    await new Promise(resolve => broken.once("close", resolve))
    expect(await cp([join(folder, "file"), "copied:/d/again"])).toEqual(fine)
    expect((await place.run(["rm", "-f", "copied"])).exitCode).toBe(0)
  })

  test("the owner's sudden end in the middle of a copy ends the copy with one line", async () => {
    const script = "head -c 64000000 /dev/zero >/large; echo up; sleep 1000"
    const owner = place.start(["run", "--rm", "--name", "ends", image, "sh", "-c", script])
    await new Promise(resolve => owner.stdout.once("data", resolve))
    const out = place.start(["cp", "ends:/large", "-"])
    // Not read on from here, so that the copy stands still half way.
    await new Promise<void>(resolve =>
      out.stdout.once("data", () => {
        out.stdout.pause()
        resolve()
      }),
    )
    const into = place.start(["cp", "-", "ends:/"])
    into.stdin.on("error", () => undefined)
    into.stdin.write(execFileSync("tar", ["-C", folder, "-c", "file"]).subarray(0, 600))
    // Listened to from here on: they may end before we hear of the owner's end.
    const ended = [collect(out), collect(into)]
    const gone = new Promise(resolve => owner.once("close", resolve))
    owner.kill("SIGKILL")
    await gone
    out.stdout.resume()
    for (const result of await Promise.all(ended)) {
      expect(result.exitCode).toBe(125)
      expect(result.stderr).toMatch(/^example-runtime: [^\n]+\n$/)
    }
    expect((await place.run(["rm", "-f", "ends"])).exitCode).toBe(0)
  })
})
