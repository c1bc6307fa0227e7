// What the command line does with images, from a store of its own; no guest is started but to hold an image.
import { execFileSync } from "node:child_process"
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeEach, describe, expect, test } from "vitest"
import { CLI, Workplace } from "../e2e/cli.js"
import { busyboxImage } from "../fixtures/images.js"

const scratch = mkdtempSync(join(tmpdir(), "image-commands-"))
const imageDir = join(scratch, "images")
const place = new Workplace(imageDir)
const file = (name: string) => join(scratch, name)

beforeEach(() => rmSync(imageDir, { recursive: true, force: true }))
afterAll(() => {
  place.remove()
  rmSync(scratch, { recursive: true, force: true })
})

/** Runs the command line, which has to end well; @returns its standard output */
async function cli(...args: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await place.run(args)
  expect([exitCode, stderr.match(/^example-runtime: .*/m)]).toEqual([0, null])
  return stdout.toString()
}

async function failing(...args: string[]): Promise<{ exitCode: number | null; stderr: string }> {
  const { exitCode, stderr } = await place.run(args)
  expect(stderr).not.toMatch(/\n {4}at /)
  return { exitCode, stderr }
}

/** A folder that becomes the image `demo:1`. */
async function buildDemo(...options: string[]): Promise<string> {
  const root = file("root")
  mkdirSync(join(root, "bin"), { recursive: true })
  writeFileSync(join(root, "bin", "tool"), "#!/bin/sh\n")
  chmodSync(join(root, "bin", "tool"), 0o755)
  return (await cli("image", "build-rootfs", root, "demo:1", ...options)).trim()
}

const names = async () =>
  JSON.parse(await cli("images", "--json")).flatMap((one: { names: string[] }) => one.names)

describe("build-rootfs and import", () => {
  test("a folder becomes an image, the same folder the same digest", async () => {
    const options = ["--latest-time", "0", "--owner", "0:0", "-c", 'CMD ["/bin/tool"]', "-c", "ENV A=b"]
    const first = await buildDemo(...options)
    expect(first).toMatch(/^sha256:[0-9a-f]{64}$/)
    await cli("rmi", "demo:1")
    expect(await buildDemo(...options)).toBe(first)
    const [details] = JSON.parse(await cli("inspect", "demo:1"))
    expect(details).toMatchObject({
      Id: first,
      RepoTags: ["demo:1"],
      Config: { Cmd: ["/bin/tool"], Env: ["A=b"] },
    })
  })

  test("a tar file becomes an image, from a file or through a pipe", async () => {
    await buildDemo()
    const tar = file("root.tar")
    execFileSync("tar", ["-C", file("root"), "-cf", tar, "."])
    const id = (await cli("import", tar, "imported", "-c", "USER 1000")).trim()
    const piped = await place.run(["import", "-", "piped", "-c", "USER 1000"], { input: readFileSync(tar) })
    expect(piped.stdout.toString().trim()).toBe(id)
    expect(await names()).toEqual(
      expect.arrayContaining(["docker.io/library/imported:latest", "docker.io/library/piped:latest"]),
    )
  })
})

describe("names", () => {
  test("are given and taken; the image goes with its last", async () => {
    await buildDemo()
    await cli("tag", "demo:1", "other/name:2")
    expect(await cli("rmi", "demo:1")).toBe("Untagged: demo:1\n")
    expect(await cli("image", "rm", "other/name:2")).toMatch(/^Untagged: other\/name:2\nDeleted: sha256:/)
    expect(await names()).toEqual([])
  })

  test("an id with several names is removed by force only", async () => {
    const id = await buildDemo()
    await cli("tag", "demo:1", "other")
    const refused = await failing("rmi", id)
    expect(refused).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("has several names") })
    expect(await cli("rmi", "--force", id.slice(7, 19))).toContain("Deleted: ")
  })

  test("what is not there is told, and the others are done", async () => {
    await buildDemo()
    const { exitCode, stderr } = await failing("rmi", "nope", "demo:1")
    expect(exitCode).toBe(1)
    expect(stderr).toBe('example-runtime: no such image: "nope"\nexample-runtime: 1 of 2 failed\n')
    expect(await names()).toEqual([])
    expect(await failing("inspect", "nope")).toMatchObject({ exitCode: 1 })
    expect(await failing("history", "nope")).toMatchObject({ exitCode: 125 })
    expect(await failing("tag", "nope", "a")).toMatchObject({ exitCode: 125 })
  })
})

describe("archives", () => {
  test.each(["docker-archive", "oci-archive"])("%s: what is saved is loaded under its name", async format => {
    const id = await buildDemo()
    const archive = file(`${format}.tar`)
    await cli("save", "--format", format, "-o", archive, "demo:1")
    const through = (await place.run(["save", "--format", format, "demo:1"])).stdout
    expect(through.equals(readFileSync(archive))).toBe(true)
    await cli("rmi", "demo:1")
    expect(await cli("load", "-q", "-i", archive)).toBe("Loaded image: demo:1\n")
    await cli("rmi", "demo:1")
    const piped = await place.run(["load"], { input: through })
    expect(piped.stdout.toString()).toBe("Loaded image: demo:1\n")
    expect(piped.stderr).toMatch(/^[0-9a-f]{12}: Pull complete\n$/)
    const redirected = execFileSync("sh", ["-c", `"$@" < ${archive}`, "sh", process.execPath, CLI, "load"], {
      encoding: "utf8",
      env: { ...process.env, ...place.env },
      stdio: "pipe",
    })
    expect(redirected).toBe("Loaded image: demo:1\n")
    expect(JSON.parse(await cli("images", "--json"))[0]).toMatchObject({ id })
  })

  test("I5: one that is none is refused, and nothing of it stays", async () => {
    writeFileSync(file("bad.tar"), "no archive")
    expect(await failing("load", "-i", file("bad.tar"))).toMatchObject({ exitCode: 125 })
    expect(JSON.parse(await cli("system", "df", "--json"))).toMatchObject({ images: [], temporary: 0 })
  })
})

describe("what there is", () => {
  test("history tells the steps, and shows no control characters of theirs", async () => {
    await buildDemo()
    await cli("image", "build-rootfs", file("root"), "evil", "-c", "LABEL a=\u001b[2J\u009b2J")
    expect(await cli("inspect", "evil")).not.toMatch(/[^\P{Cc}\n]/u)
    expect((await cli("history", "evil")).split("\n")[0]).toMatch(/^CREATED +CREATED BY +SIZE +COMMENT/)
    expect(JSON.parse(await cli("history", "evil", "--json"))).toHaveLength(1)
  })

  test("system df adds up to what lies in the store's folder", async () => {
    await buildDemo()
    const used = JSON.parse(await cli("system", "df", "--json"))
    const files = execFileSync("find", [imageDir, "-type", "f", "-printf", "%s\n"], { encoding: "utf8" })
    expect(used.total).toBe(
      files
        .trim()
        .split("\n")
        .reduce((sum, size) => sum + Number(size), 0),
    )
    expect(await cli("system", "df", "-v")).toContain("demo:1")
  })

  test("prune removes what has no name, with --all everything, and asks first", async () => {
    await buildDemo()
    expect(await failing("image", "prune", "-a")).toMatchObject({ exitCode: 125 })
    expect(JSON.parse(await cli("image", "prune", "-f", "--json"))).toMatchObject({ done: true, images: [] })
    expect(await cli("image", "prune", "-af")).toMatch(
      /Untagged: demo:1\nDeleted: sha256:.*\nTotal reclaimed space: /,
    )
    expect(await names()).toEqual([])
  })

  test("an image that a sandbox runs is kept by prune and rmi", async () => {
    await cli("run", "--rm", `oci:${busyboxImage()}`, "true")
    const [{ digest }] = JSON.parse(await cli("images", "--json"))
    const running = place.start(["run", "--rm", "-i", `oci:${busyboxImage()}`, "sh", "-c", "echo up; cat"])
    await new Promise(resolve => running.stdout.once("data", resolve))
    expect(JSON.parse(await cli("image", "prune", "-af", "--json"))).toMatchObject({ images: [] })
    expect(await failing("rmi", digest)).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("running sandbox"),
    })
    const ended = new Promise(resolve => running.once("close", resolve))
    running.stdin.end()
    expect(await ended).toBe(0)
    await cli("rmi", digest)
  })
})
