import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, lstatSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import {
  END,
  padded,
  paxRecord,
  rawEntry,
  rawHeader,
  rawPax,
} from "../../oci-image/src/test-support/raw-tar.js"
import { HostAgent, readAll, START_TIMEOUT_MS, whyNoHostAgent } from "./host-agent.js"

const why = whyNoHostAgent()
const PATH = ["PATH=/bin"]
const sh = (script: string) => ({ args: ["sh", "-c", script], env: PATH })
const tar = (...parts: Buffer[]) => Buffer.concat([...parts, END])

interface Wanted {
  readonly containerId?: string
  readonly path?: string
  readonly name?: string
  readonly contents?: boolean
  readonly keepOwner?: boolean
}

describe.skipIf(why !== undefined)(
  `agent: unpacking${why ? ` (skipped: ${why})` : ""}`,
  { timeout: 60_000 },
  () => {
    let host: HostAgent
    beforeAll(async () => {
      host = await HostAgent.start()
      await started("box", sh("echo up; exec sleep 1000"))
    }, START_TIMEOUT_MS)
    afterAll(() => host.stop())

    async function started(id: string, options: Parameters<HostAgent["run"]>[1]) {
      const run = await host.run(id, options)
      await new Promise(resolve => run.stdout.once("data", resolve))
    }

    /** Sends a stream whole, and waits for the answer. */
    async function unpack(stream: Buffer, wanted: Wanted): Promise<void> {
      const { port, socket } = host.listen()
      const done = host.client.unpackFiles({ containerId: "box", port, ...wanted })
      done.catch(() => undefined)
      // A call that is refused at once does not connect.
      const connection = await Promise.race([socket, done.then(() => socket)])
      connection.on("error", () => undefined)
      connection.resume()
      connection.end(stream)
      await done
      connection.destroy()
    }

    async function shell(script: string): Promise<string> {
      const run = await host.exec("box", `e${Math.random()}`, sh(script))
      const [out, err] = await Promise.all([readAll(run.stdout), readAll(run.stderr), run.exit])
      return out.toString() + err.toString()
    }

    /** All that lies outside the container: the agent's own files, and this machine's. */
    function outside(): string {
      const root = `/proc/${host.pid}/root`
      const hash = createHash("sha256")
      const look = (path: string) => {
        const stat = lstatSync(path)
        hash.update(`${path} ${stat.mode} ${stat.size} ${stat.uid} ${stat.nlink}\n`)
        if (stat.isFile() && stat.size < 65_536) hash.update(readFileSync(path))
        if (!stat.isDirectory() || path.endsWith("/written/box") || path.endsWith("/box/rootfs")) return
        for (const name of readdirSync(path).sort()) look(join(path, name))
      }
      for (const dir of ["/run/tsvmm", "/etc"]) look(root + dir)
      return hash.digest("hex") + readdirSync(`${root}/tmp`).includes("evil") + existsSync(`${root}/evil`)
    }

    test("files keep content, mode, time, links and holes; owners are root's unless they are asked for", async () => {
      const big = Buffer.alloc(3 * 65_536 + 17)
      big.write("begin")
      big.write("end", big.length - 3)
      const long = `d/${"n".repeat(120)}`
      const stream = tar(
        rawEntry({ name: "d/", type: "5", mode: 0o1750, uid: 7, gid: 8, mtime: 1_000_000_000 }),
        rawPax(paxRecord("mtime", "1500000000.5") + paxRecord("SCHILY.xattr.trusted.overlay.opaque", "y")),
        rawEntry({ name: "d/f", mode: 0o4751, uid: 1000, gid: 1001 }, "text"),
        rawEntry({ name: "d/hard", type: "1", linkname: "d/f" }),
        rawEntry({ name: "d/soft", type: "2", linkname: "../../etc/passwd", mtime: 5 }),
        rawPax(paxRecord("path", long)),
        rawHeader({ name: "x", size: big.length }),
        padded(big),
        rawEntry({ name: "d/pipe", type: "6", mode: 0o600 }),
        rawEntry({ name: "d/sub/deeper/made", mode: 0o600 }, "x"),
      )
      const look = `cd /tmp/d; stat -c '%a %u %g %h %Y %s %F %n' . f hard pipe sub/deeper/made; readlink soft
        tail -c 3 n*; stat -c %b n*; md5sum <$(echo n*)`
      await unpack(stream, { path: "/tmp", name: "d" })
      const lines = (await shell(look)).replace("end", "end\n").split("\n")
      expect(lines.slice(0, 7)).toEqual([
        expect.stringMatching(/^1750 0 0 \d 1000000000 \d+ directory \.$/),
        "4751 0 0 2 1500000000 4 regular file f",
        "4751 0 0 2 1500000000 4 regular file hard",
        expect.stringMatching(/^600 0 0 1 0 0 fifo pipe$/),
        "600 0 0 1 0 1 regular file sub/deeper/made",
        "../../etc/passwd",
        "end",
      ])
      expect(Number(lines[7])).toBeLessThan((3 * 65_536) / 512)
      expect(lines[8]).toBe(`${createHash("md5").update(big).digest("hex")}  -`)
      await unpack(stream, { path: "/tmp", name: "d", keepOwner: true })
      expect(await shell("stat -c '%a %u %g' /tmp/d /tmp/d/f; rm -r /tmp/d")).toBe(
        "1750 7 8\n4751 1000 1001\n",
      )
    })

    const FILE = tar(rawEntry({ name: "src" }, "new\n"))
    const FOLDER = tar(rawEntry({ name: "src/", type: "5", mode: 0o700 }), rawEntry({ name: "src/a" }, "a\n"))
    const OLD =
      "rm -rf /w; mkdir -p /w/dir /w/else; echo old >/w/file; ln -s dir /w/todir; ln -s file /w/tofile; ln -s else/later /w/dangling"

    test.each([
      ["a file to a name that is not there", FILE, { path: "/w/name" }, "/w/name"],
      ["a file over a file", FILE, { path: "w/file" }, "/w/file"],
      ["a file into a folder", FILE, { path: "/w/dir" }, "/w/dir/src"],
      ["a file into a folder with a slash", FILE, { path: "/w/dir/" }, "/w/dir/src"],
      ["a file into the folder that a link leads to", FILE, { path: "/w/todir" }, "/w/dir/src"],
      ["a file over the file that a link leads to", FILE, { path: "/w/tofile" }, "/w/file"],
      ["a file to where a link leads", FILE, { path: "/w/dangling" }, "/w/else/later"],
      ["a folder to a name that is not there", FOLDER, { path: "/w/name/" }, "/w/name/a"],
      ["a folder into a folder", FOLDER, { path: "/w/dir" }, "/w/dir/src/a"],
      ["a folder's contents into a folder", FOLDER, { path: "/w/dir", contents: true }, "/w/dir/a"],
      [
        "a folder's contents to a name that is not there",
        FOLDER,
        { path: "/w/name", contents: true },
        "/w/name/a",
      ],
      ["the root, above it", FILE, { path: "/../../w/../w/file" }, "/w/file"],
    ])("docker's rules: %s", async (_what, stream, wanted, place) => {
      await shell(OLD)
      await unpack(stream, { name: "src", ...wanted })
      expect(await shell(`cat ${place}; stat -c %a /w/dir; readlink /w/tofile`)).toBe(
        `${stream === FILE ? "new" : "a"}\n755\nfile\n`,
      )
    })

    test.each([
      ["a folder over a file", FOLDER, { path: "/w/file" }, "cannot copy a directory to a file"],
      ["a file to a folder that is not there", FILE, { path: "/w/none/" }, "no such directory"],
      ["a file below a folder that is not there", FILE, { path: "/w/none/x" }, "no such directory"],
      ["a file below a file", FILE, { path: "/w/file/x" }, "no such directory"],
      ["a file to a file with a slash", FILE, { path: "/w/file/" }, "not a directory"],
      ["an archive to what is no folder", FILE, { path: "/w/file", name: "" }, "no such directory"],
      ["links in a circle", FILE, { path: "/w/circle" }, "Too many levels"],
      ["through /proc", FILE, { path: "/proc/1/root/w/x" }, "Too many levels"],
      ["into /proc", FILE, { path: "/proc/sys/kernel/x" }, "read-only"],
      ["into /sys", FILE, { path: "/sys/kernel" }, "read-only"],
      ["over a folder of the same name", FILE, { path: "/w/has" }, "cannot overwrite a directory"],
    ])("docker's rules: %s is refused", async (_what, stream, wanted, message) => {
      await shell(`${OLD}; ln -s circle /w/circle; mkdir -p /w/has/src`)
      await expect(unpack(stream, { name: "src", ...wanted })).rejects.toMatchObject({
        code: "rpc",
        message: expect.stringContaining(message),
      })
      expect(await shell("cat /w/file; find /w | wc -l")).toBe("old\n10\n")
    })

    test("an archive follows the container's links, and replaces what is no folder", async () => {
      await shell(
        "rm -rf /w; mkdir -p /w/usr/lib; ln -s usr/lib /w/lib; ln -s /w/usr /w/abs; echo x >/w/target; ln -s target /w/link",
      )
      const stream = tar(
        rawEntry({ name: "./", type: "5", mode: 0o700 }),
        rawEntry({ name: "./lib/a" }, "a\n"),
        rawEntry({ name: "abs/b" }, "b\n"),
        rawEntry({ name: "link" }, "replaced\n"),
      )
      await unpack(stream, { path: "/w" })
      expect(await shell("cd /w; cat usr/lib/a usr/b link target; stat -c %a .")).toBe(
        "a\nb\nreplaced\nx\n755\n",
      )
    })

    test("mounts of the container are where files go", async () => {
      await unpack(FILE, { path: "/dev/shm", name: "src" })
      expect(await shell("cat /dev/shm/src; rm /dev/shm/src")).toBe("new\n")
    })

    test("a read-only root refuses, what is mounted in it does not", async () => {
      await started("ro", { ...sh("echo up; exec sleep 1000"), readonly: true })
      await expect(unpack(FILE, { containerId: "ro", path: "/tmp", name: "src" })).rejects.toMatchObject({
        status: 9,
        message: '"/tmp": the container cannot write there: the file system is read-only',
      })
      await unpack(FILE, { containerId: "ro", path: "/dev/shm", name: "src" })
      await host.client.removeContainer({ containerId: "ro" })
    })

    test("packing sees what is mounted, but nothing of it from above; a program's end does not matter", async () => {
      const pack = async (containerId: string, path: string, follow = false) => {
        const { port, socket } = host.listen()
        const done = host.client.packFiles({ containerId, path, port, follow })
        const stream = await Promise.race([socket, done.then(() => socket)]).then(readAll)
        await done
        const list = execFileSync("tar", ["-tf", "-"], { input: stream, encoding: "utf8" })
        return list.trim().split("\n").sort()
      }
      await shell(
        "rm -rf /w; mkdir -p /w/d; echo x >/w/d/f; ln -s d /w/l; mkdir -p /dev/shm/s; echo y >/dev/shm/s/f",
      )
      expect(await pack("box", "/dev/shm/s")).toEqual(["s/", "s/f"])
      expect(await pack("box", "/w/l")).toEqual(["l"])
      expect(await pack("box", "/w/l", true)).toEqual(["l/", "l/f"])
      const all = await pack("box", "/")
      expect(all).toEqual(expect.arrayContaining(["proc/", "dev/", "sys/", "w/d/f"]))
      expect(all.filter(name => /^(proc|dev|sys)\/./.test(name))).toEqual([])
      await shell("rm -r /w /dev/shm/s")
      const ended = await host.run("ended", sh("mkdir /r; echo x >/r/f"))
      await ended.exit
      expect(await pack("ended", "/r")).toEqual(["r/", "r/f"])
      await expect(unpack(FILE, { containerId: "ended", path: "/" })).rejects.toMatchObject({
        message: "the container is not running",
      })
      await host.client.removeContainer({ containerId: "ended" })
    })

    const link = (name: string, to: string) => rawEntry({ name, type: "2", linkname: to })
    const hard = (name: string, to: string) => rawEntry({ name, type: "1", linkname: to })
    const dir = (name: string) => rawEntry({ name, type: "5" })
    const hostile: readonly (readonly [string, Buffer, Wanted?])[] = [
      ["a name that climbs", tar(rawEntry({ name: "../../../../tmp/evil" }, "x"))],
      ["a name that climbs in the middle", tar(rawEntry({ name: "a/../../../../tmp/evil" }, "x"))],
      ["a hard link that climbs", tar(hard("x", "../../../../etc/passwd"))],
      ["a hard link to a folder", tar(hard("x", "etc"))],
      ["a hard link to nothing", tar(hard("x", "none"))],
      ["a link of /proc in a path", tar(rawEntry({ name: "proc/1/cwd/evil" }, "x"))],
      [
        "a file below a link of the same named stream",
        tar(dir("src"), link("src/l", "/etc"), rawEntry({ name: "src/l/evil" }, "x")),
        { name: "src" },
      ],
      [
        "a folder over a link of the same named stream",
        tar(dir("src"), link("src/l", "/etc"), dir("src/l")),
        { name: "src" },
      ],
      [
        "a hard link through a link of the same named stream",
        tar(dir("src"), link("src/l", "/etc"), hard("src/h", "src/l/passwd")),
        { name: "src" },
      ],
      [
        "a name beside the one that was told",
        tar(dir("src"), rawEntry({ name: "other" }, "x")),
        { name: "src" },
      ],
      ["a file in place of the folder itself", tar(rawEntry({ name: "." }, "x"))],
      ["a device", tar(rawEntry({ name: "d", type: "4", devmajor: 254 }))],
      ["a character device", tar(rawEntry({ name: "d", type: "3", devmajor: 1, devminor: 1 }))],
      ["a type nobody knows", tar(rawEntry({ name: "d", type: "Z" }))],
      ["a sparse file", tar(rawEntry({ name: "d", type: "S" }))],
      ["a wrong checksum", tar(rawHeader({ checksum: "0000001\0" }))],
      ["no tar stream", Buffer.alloc(2048, 0x41)],
      ["nothing", Buffer.alloc(0)],
      ["half an entry", rawHeader({ name: "half", size: 5000 })],
      ["half a content", Buffer.concat([rawHeader({ name: "half", size: 5000 }), Buffer.alloc(600, 1)])],
      ["half an end", Buffer.alloc(512)],
      ["something after the end", Buffer.concat([END, rawEntry({ name: "evil" }, "x")])],
      ["a prefix", tar(rawEntry({ name: "a", prefix: "b" }))],
      ["GNU's header", tar(rawEntry({ name: "a", magic: "ustar  \0" }))],
      ["a size of 8 EiB", tar(rawPax(paxRecord("size", "9223372036854775807")), rawHeader({ name: "a" }))],
      ["a size in base-256", tar(rawHeader({ size: Buffer.from([0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]) }))],
      ["content of a folder", tar(rawEntry({ name: "d", type: "5" }, "x"))],
      ["an extension that is too long", tar(rawHeader({ type: "x", size: 2 * 1024 * 1024 }))],
      ["two extensions", tar(rawPax(paxRecord("uid", "1")), rawPax(paxRecord("uid", "2")), rawEntry({}))],
      ["an extension without an entry", tar(rawPax(paxRecord("uid", "1")))],
      ["a record longer than its extension", tar(rawPax("99 path=a\n"), rawEntry({}))],
      ["a record of no length", tar(rawPax("0 path=a\n"), rawEntry({}))],
      ["a record without a key", tar(rawPax("4 =\n"), rawEntry({}))],
      ["a record that is only a number", tar(rawPax("2 "), rawEntry({}))],
      ["a NUL in a path", tar(rawPax(paxRecord("path", "a\0b")), rawEntry({}))],
      ["a record nobody knows", tar(rawPax(paxRecord("GNU.sparse.major", "1")), rawEntry({}))],
      ["an owner that means none", tar(rawPax(paxRecord("uid", "4294967295")), rawEntry({}))],
      ["a time that is none", tar(rawPax(paxRecord("mtime", "1e9")), rawEntry({}))],
      ["a path that is too long", tar(rawPax(paxRecord("path", "a/".repeat(2100))), rawEntry({}))],
      ["a name that is too long", tar(rawPax(paxRecord("path", "a".repeat(300))), rawEntry({}))],
      ["folders too deep", tar(rawPax(paxRecord("path", "a/".repeat(600))), rawEntry({ type: "5" }))],
      ["an empty link", tar(rawEntry({ name: "l", type: "2" }))],
      ["an empty name", tar(rawHeader({ name: "" }))],
    ]

    test.each(hostile.map(([what, stream, wanted = {}]) => ({ what, stream, wanted })))(
      "$what is refused, and nothing outside the container changes",
      async ({ stream, wanted }) => {
        await shell("rm -rf /w; mkdir /w; cp -r /etc /w/etc")
        const before = outside()
        await expect(unpack(stream, { path: wanted.name ? "/w" : "/", ...wanted })).rejects.toMatchObject({
          code: "rpc",
        })
        expect(outside()).toBe(before)
        expect(await shell("ls /half /etc/evil /w/half 2>/dev/null; cat /etc/plain; echo alive")).toBe(
          "not a program\nalive\n",
        )
      },
    )

    test("what an extension says wins over the header, also when it says 0", async () => {
      const records = paxRecord("uid", "0") + paxRecord("size", "0") + paxRecord("mtime", "0")
      const header = rawEntry({ name: "zero", uid: 7, gid: 8, size: 5, mtime: 5 })
      await unpack(tar(rawPax(records), header), { path: "/tmp", name: "zero", keepOwner: true })
      expect(await shell("stat -c '%u %g %s %Y' /tmp/zero")).toBe("0 8 0 0\n")
    })

    test("programs that exchange folders for links meanwhile lead nothing outside the container", async () => {
      const race = await host.exec(
        "box",
        "race",
        sh(
          "mkdir -p /r/d; ln -s ../../../../../../../../tmp /r/l; cd /r; echo up; while true; do mv d x 2>/dev/null; mv l d 2>/dev/null; rm -rf d/evil; mv d l 2>/dev/null; mv x d 2>/dev/null; done",
        ),
      )
      await new Promise(resolve => race.stdout.once("data", resolve))
      const before = outside()
      const entries = Array.from({ length: 200 }, (_, i) =>
        rawEntry({ name: `d/evil/f${i}` }, "x".repeat(600)),
      )
      let ended = 0
      for (let i = 0; i < 40; i++) {
        await unpack(
          tar(dir("d"), dir("d/evil"), ...entries),
          i % 2 ? { path: "/r", name: "d" } : { path: "/r" },
        ).then(
          () => ended++,
          error => expect(error.code).toBe("rpc"),
        )
      }
      expect(outside()).toBe(before)
      await host.client.signalProcess({ containerId: "box", execId: "race", signal: 9 })
      expect(await shell("echo alive")).toBe("alive\n")
    })

    test("a host that lets go ends the agent's work; a container that goes does too", async () => {
      const { port, socket } = host.listen()
      const done = host.client.unpackFiles({ containerId: "box", port, path: "/tmp", name: "half" })
      const failed = expect(done).rejects.toMatchObject({ code: "rpc" })
      const connection = await socket
      connection.write(Buffer.concat([rawHeader({ name: "half", size: 5000 }), Buffer.alloc(600, 1)]))
      connection.destroy()
      await failed
      expect(await shell("ls /tmp/half 2>&1")).toContain("No such file")
      await started("gone", sh("echo up; exec sleep 1000"))
      const second = host.listen()
      const ended = host.client.unpackFiles({ containerId: "gone", port: second.port, path: "/" })
      const said = expect(ended).rejects.toMatchObject({
        // As the container goes before the job has entered it, or after that.
        message: expect.stringMatching(/ended before it was done|is not running/),
      })
      await second.socket
      await host.client.removeContainer({ containerId: "gone" })
      await said
      await expect(unpack(FILE, { containerId: "gone", path: "/" })).rejects.toMatchObject({ status: 5 })
    })
  },
)
