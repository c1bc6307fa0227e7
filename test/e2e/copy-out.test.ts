// Files of a container as a tar stream.
import { execFileSync } from "node:child_process"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, expect, test } from "vitest"
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

test("files are copied out, and no link leads outside the container", async () => {
  await using sandbox = await Sandbox.create({ image, paths, ...underTest })
  const container = await sandbox.createContainer({ command: ["sleep", "1000"] })
  const script = `mkdir -p /d/e; echo text > /d/e/f; ln -s f /d/e/link; ln -s ../../../../../d /up; ln -s /proc/1/root /out
    echo x > /d/.wh.kept; chmod 640 /d/e/f`
  await container.shell(script, { check: true })
  const list = async (path: string, options = {}) => {
    const chunks: Buffer[] = []
    for await (const chunk of container.copyOut(path, options)) chunks.push(chunk)
    return execFileSync("tar", ["-tvf", "-"], { input: Buffer.concat(chunks), encoding: "utf8" })
      .trim()
      .split("\n")
      .map(line => line.replace(/^(\S+) (\S+) +\d+ \S+ \S+ /, "$1 $2 "))
      .sort()
  }
  const tree = [
    "-rw-r--r-- 0/0 d/.wh.kept",
    "-rw-r----- 0/0 d/e/f",
    "drwxr-xr-x 0/0 d/",
    "drwxr-xr-x 0/0 d/e/",
  ]
  expect(await list("/d")).toEqual([...tree, "lrwxrwxrwx 0/0 d/e/link -> f"].sort())
  expect(await list("up/e/f")).toEqual(["-rw-r----- 0/0 f"])
  expect(await list("/../../d/e/link")).toEqual(["lrwxrwxrwx 0/0 link -> f"])
  expect(await list("/bin/busybox")).toHaveLength(1)
  expect((await list("/")).some(line => line.endsWith(" d/e/f"))).toBe(true)
  for (const path of ["/none", "/d/e/f/below", "/out/etc", "/proc/self/root/etc"])
    await expect(list(path)).rejects.toMatchObject({ code: "agent-failed" })
  await expect(list("/d", { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "aborted" })
  // Whoever stops reading leaves nothing running.
  for await (const chunk of container.copyOut("/")) {
    expect(chunk.length).toBeGreaterThan(0)
    break
  }
  expect((await container.exec("echo", ["alive"])).stdout).toBe("alive\n")
})
