// What a container is becomes an image.
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ImageStore } from "@ts-vmm/oci-image"
import { type Container, Sandbox, type SandboxOptions } from "@ts-vmm/runtime"
import { afterAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { Workplace } from "./cli.js"
import { underTest } from "./under-test.js"

const images = mkdtempSync(join(tmpdir(), "images-"))
const place = new Workplace(images)
const paths = { stateDir: place.stateDir, imageDir: images }
const busybox = `oci:${busyboxImage()}`

afterAll(() => {
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  expect(readdirSync(join(images, "tmp"))).toEqual([])
  place.remove()
  rmSync(images, { recursive: true })
})

async function idle(
  options: Partial<SandboxOptions> = {},
): Promise<{ sandbox: Sandbox; container: Container }> {
  const sandbox = await Sandbox.create({ image: busybox, paths, ...options, ...underTest })
  return { sandbox, container: await sandbox.createContainer({ command: ["sleep", "1000"] }) }
}

/** Kind, rights, owner, links, time and content of all there is in these folders; of a folder not its size and time. */
const LOOK = `cd /; find d etc tmp bin/cat usr/new 2>/dev/null | grep -v -e etc/host -e resolv.conf | sort | while read -r f; do
  if [ -d "$f" ] && [ ! -L "$f" ]; then stat -c '%n %F %a %u:%g' "$f"; else stat -c '%N %F %a %u:%g %s %Y %h %t:%T' "$f"; fi
  if [ -f "$f" ] && [ ! -L "$f" ]; then sha256sum < "$f"; fi; done`

describe("commit", () => {
  test.each([{ kind: "memory" }, { kind: "disk", sizeMiB: 64 }] as const)(
    "of a container with files of every kind gives an image of equal files (%j)",
    async storage => {
      const { sandbox, container } = await idle({ storage })
      const script = `mkdir -p /d/sub /usr; cd /d; echo text > file; chmod 4751 file; chown 70000:3000000 file
        touch -d '2001-02-03 04:05:06' file; ln file hard; ln -s ../etc/passwd soft; ln -s ${"long/".repeat(40)}x longlink
        mkfifo pipe; dd if=/dev/urandom of=random bs=1000 count=333 2>/dev/null; truncate -s 3M sparse; : > empty
        mkdir ${"n".repeat(200)}; echo deep > ${"n".repeat(200)}/${"m".repeat(255)}; chmod 1777 sub
        echo spaces > 'a b'; rm /bin/cat; echo x >> /etc/passwd; rm -r /tmp; mkdir /tmp; echo y > /tmp/only; chmod 700 /tmp
        touch -d '1960-01-01 00:00:00' old; echo x > /usr/new; rm /etc/os-release`
      await container.shell(script, { check: true })
      const before = (await container.shell(LOOK, { check: true })).stdout
      expect(before.split("\n").length).toBeGreaterThan(25)
      expect(before).not.toContain("bin/cat")
      const image = await container.commit({ config: { cmd: ["sh", "-c", "echo committed"] } })
      await sandbox.destroy()
      expect(image.config.cmd).toEqual(["sh", "-c", "echo committed"])

      await using again = await Sandbox.create({ image, paths, ...underTest })
      expect((await again.shell(LOOK, { check: true })).stdout).toBe(before)
      expect((await again.shell("ls -A /tmp")).stdout).toBe("only\n")
    },
  )

  test("of a commit has what changed since, and an unchanged container an empty layer", async () => {
    const { sandbox, container } = await idle()
    const same = await container.commit({ name: "same" })
    await container.shell("echo 1 > /one", { check: true })
    await container.commit({ name: "one", author: "ann", comment: "first" })
    await sandbox.destroy()
    const next = await idle({ image: "one" })
    await next.container.shell("echo 2 > /two; rm /one", { check: true })
    await next.container.commit({ name: "two" })
    await next.sandbox.destroy()
    await using last = await Sandbox.create({ image: "two", paths, ...underTest })
    expect((await last.shell("cat /two; ls /one")).stdout).toBe("2\n")
    const store = await ImageStore.open(images)
    expect((await store.history("two")).map(({ comment }) => comment)).toEqual(["", "first", ""])
    expect((await store.history("same"))[0]).toMatchObject({ size: 0 })
    expect(same.layers).toHaveLength(2)
  })

  test("stops the container's programs meanwhile, and lets them go on also when it fails", async () => {
    const { sandbox, container } = await idle()
    await using _ = sandbox
    await container.spawn("sh", ["-c", "while :; do echo x >> /a; echo x >> /b; sleep 0.01; done"], {
      stdin: false,
    })
    await container.shell("while [ ! -s /b ]; do :; done")
    await container.commit({ name: "paused" })
    const goesOn = async () => {
      const script = 'x=$(wc -c < /b); while [ "$(wc -c < /b)" = "$x" ]; do sleep 0.1; done; echo on'
      expect((await container.shell(script)).stdout).toBe("on\n")
    }
    await goesOn()
    await using copy = await Sandbox.create({ image: "paused", paths, ...underTest })
    const [a, b] = (await copy.shell("wc -l < /a; wc -l < /b")).stdout.trim().split("\n").map(Number)
    expect((a as number) - (b as number)).toBeLessThanOrEqual(1)

    await expect(container.commit({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "aborted" })
    await expect(container.commit({ name: "not/A name" })).rejects.toMatchObject({ code: "image-not-found" })
    await container.shell("mkdir /x; echo > /x/.wh.name", { check: true })
    await expect(container.commit()).rejects.toMatchObject({
      code: "agent-failed",
      message: expect.stringContaining("x/.wh.name"),
    })
    await goesOn()
  })

  test("is bounded: a file that is larger than a layer, if only in name, is refused", async () => {
    const { sandbox, container } = await idle()
    await using _ = sandbox
    await container.shell("truncate -s 65G /sparse", { check: true })
    await expect(container.commit()).rejects.toMatchObject({
      code: "agent-failed",
      message: /more than a layer/,
    })
  })
})

test("commit on the command line", async () => {
  const script = "echo patched > /etc/motd; echo up; sleep 1000"
  const child = place.start(["run", "--rm", "--name", "job", busybox, "sh", "-c", script])
  await new Promise(resolve => child.stdout.once("data", resolve))
  const made = await place.run([
    "commit",
    "-c",
    'CMD ["cat", "/etc/motd"]',
    "-m",
    "a patch",
    "job",
    "patched:1",
  ])
  expect(made).toMatchObject({ exitCode: 0, stderr: "" })
  expect(made.stdout.toString()).toMatch(/^sha256:[0-9a-f]{64}\n$/)
  expect((await place.run(["rm", "-f", "job"])).exitCode).toBe(0)
  expect((await place.run(["history", "patched:1"])).stdout.toString()).toContain("a patch")
  expect((await place.run(["run", "--rm", "patched:1"])).stdout.toString()).toBe("patched\n")
  expect(await place.run(["commit", "job"])).toMatchObject({ exitCode: 125 })
})
