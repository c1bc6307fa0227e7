// What a container changed of its image: listed.
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { underTest } from "./under-test.js"

const place = new Workplace()
const paths = { stateDir: place.stateDir, imageDir: TEST_IMAGE_DIR }
const image = `oci:${busyboxImage()}`

afterAll(() => {
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

const LETTERS = { added: "A", changed: "C", deleted: "D" }

/** A container's changes as `docker diff` prints them, after `script` has run in it. */
async function changes(script: string, options = {}): Promise<string[]> {
  await using sandbox = await Sandbox.create({ image, paths, ...options, ...underTest })
  const container = await sandbox.createContainer({ command: ["sleep", "1000"] })
  await container.shell(script, { check: true })
  return (await container.diff()).map(({ kind, path }) => `${LETTERS[kind]} ${path}`)
}

describe.each([{ storage: { kind: "memory" } }, { storage: { kind: "disk", sizeMiB: 64 } }])(
  "with %j",
  storage => {
    test("nothing done is nothing changed, whatever the runtime made for it", async () => {
      expect(await changes("true", storage)).toEqual([])
    })

    test("added, changed and deleted paths, as docker has them", async () => {
      const script = `mkdir -p /d/e; echo x > /d/e/f; mkfifo /d/p; ln -s / /d/l; echo x >> /etc/passwd; rm /bin/cat
      chmod 700 /etc/group; mkdir /tmp/gone; rmdir /tmp/gone; echo x >/volatile; rm /volatile`
      expect(await changes(script, storage)).toEqual([
        "C /bin",
        "D /bin/cat",
        "A /d",
        "A /d/e",
        "A /d/e/f",
        "A /d/l",
        "A /d/p",
        "C /etc",
        "C /etc/group",
        "C /etc/passwd",
        "C /tmp", // its time
      ])
    })

    test("a folder that was made anew hides what the image has there, path by path", async () => {
      const script = "rm -r /etc; mkdir -p /etc/sub; echo x > /etc/group; rm -r /tmp; echo file > /tmp"
      expect(await changes(script, storage)).toEqual([
        "C /etc",
        "C /etc/group",
        "D /etc/os-release",
        "D /etc/passwd",
        "A /etc/sub",
        "C /tmp",
      ])
    })
  },
)

test("containers of a sandbox have changes of their own, and mounts are none", async () => {
  await using sandbox = await Sandbox.create({
    image,
    paths,
    mounts: [{ source: place.stateDir, target: "/made/for/it" }],
    ...underTest,
  })
  const one = await sandbox.createContainer({ command: ["sleep", "1000"] })
  const two = await sandbox.createContainer({ command: ["sleep", "1000"], cwd: "/work" })
  await one.shell("echo x > /one; echo y > /made/for/it/mounted; rm /made/for/it/mounted", { check: true })
  expect(await one.diff()).toEqual([{ kind: "added", path: "/one" }])
  expect(await two.diff()).toEqual([{ kind: "added", path: "/work" }])
  await one.remove()
  await expect(one.diff()).rejects.toMatchObject({ code: "agent-failed" })
  await expect(two.diff({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "aborted" })
  expect(await two.diff()).toHaveLength(1)
})

test("files that lie deeper than a layer may have them are refused, many changes are not", async () => {
  await using sandbox = await Sandbox.create({ image, paths, ...underTest })
  const container = await sandbox.createContainer({ command: ["sleep", "1000"] })
  await container.shell("mkdir /many; cd /many; seq 3000 | xargs touch", { check: true })
  expect(await container.diff()).toHaveLength(3001)
  await container.shell("cd /; for i in $(seq 520); do mkdir d; cd d; done", { check: true })
  await expect(container.diff()).rejects.toMatchObject({ code: "agent-failed", message: /too deep/ })
  expect((await container.exec("echo", ["alive"])).stdout).toBe("alive\n")
})

describe("diff on the command line", () => {
  test("asks the process that owns the sandbox; names cannot steer the terminal", async () => {
    const script = "touch \"$(printf '/a\\nb\\033[31m')\"; rm /bin/cat; echo up; sleep 1000"
    const child = place.start(["run", "--rm", "--name", "changed", image, "sh", "-c", script])
    await new Promise(resolve => child.stdout.once("data", resolve))
    const { exitCode, stdout, stderr } = await place.run(["diff", "changed"])
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" })
    expect(stdout.toString()).toBe("A /a\\x0ab\\x1b[31m\nC /bin\nD /bin/cat\n")
    const json = JSON.parse((await place.run(["diff", "--json", "changed"])).stdout.toString())
    expect(json[2]).toEqual({ kind: "deleted", path: "/bin/cat" })
    expect((await place.run(["rm", "-f", "changed"])).exitCode).toBe(0)
    expect(await place.run(["diff", "changed"])).toMatchObject({
      exitCode: 125,
      stderr: "example-runtime: no such sandbox: changed\n",
    })
  })
})
