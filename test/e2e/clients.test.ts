// Programs that people use, on a folder of the host over virtio-fs and on a virtio-blk disk (the storage of the container):
// what they find there must be what they put there. test/README.md says how to make the sizes larger.
import { execFileSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readdirSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { sourceTree, type Tree } from "../fixtures/clients/tree.js"
import { clientsImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { HYPERVISOR, underTest } from "./under-test.js"

/** Everything is smaller where the processor is emulated. */
const SIZES =
  HYPERVISOR === "kvm" ? { files: 1000, fioMiB: 8, kills: 1 } : { files: 4000, fioMiB: 24, kills: 2 }
const TREE = process.env["TS_VMM_CLIENTS_TREE"]
const FILES = Number(process.env["TS_VMM_CLIENTS_FILES"] ?? SIZES.files)
const FIO_MIB = Number(process.env["TS_VMM_CLIENTS_FIO_MIB"] ?? SIZES.fioMiB)
const KILLS = Number(process.env["TS_VMM_CLIENTS_KILLS"] ?? SIZES.kills)
const TIMEOUT_MS = 1_800_000

const FIXTURES = fileURLToPath(new URL("../fixtures/clients", import.meta.url))
const place = new Workplace()
let shared: string
let tree: Tree
let sandbox: Sandbox

beforeAll(async () => {
  // Where there is room, and xattrs and O_DIRECT as on any disk.
  shared = mkdtempSync(join(TEST_IMAGE_DIR, "..", "clients-"))
  mkdirSync(join(shared, "work"))
  tree = sourceTree(FILES, TREE)
  sandbox = await Sandbox.create({
    image: `oci:${clientsImage()}`,
    paths: { stateDir: place.stateDir, imageDir: TEST_IMAGE_DIR },
    storage: { kind: "disk", sizeMiB: 8192 },
    mounts: [
      { source: join(shared, "work"), target: "/shared" },
      { source: FIXTURES, target: "/clients", readOnly: true },
      { source: dirname(tree.archive), target: "/trees", readOnly: true },
    ],
    ...underTest,
  })
  await sandbox.shell("mkdir /disk", { check: true })
}, TIMEOUT_MS)

afterAll(async () => {
  await sandbox?.destroy()
  execFileSync("rm", ["-rf", shared])
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

/** Lines that a script of the fixtures says, in a folder of its own. */
async function client(script: string, ...args: readonly (string | number)[]): Promise<string[]> {
  const [program, path] = [script.endsWith(".py") ? "python3" : "sh", `/clients/${script}`]
  const { stdout, stderr, exitCode } = await sandbox.exec(program, [path, ...args.map(String)], {
    timeoutMs: TIMEOUT_MS,
  })
  expect({ stderr, exitCode }).toEqual({ stderr: expect.any(String), exitCode: 0 })
  return stdout.split("\n").filter(line => line)
}

describe.each([
  ["virtio-fs", "/shared"],
  ["virtio-blk", "/disk"],
])("on %s", (_, folder) => {
  test("gcc and make build a project, test it, and build only what is newer", {
    timeout: TIMEOUT_MS,
  }, async () => {
    const lines = await client("compile.sh", "/clients/calculator", folder)
    expect(lines).toEqual(["10 passed, 0 failed", "make: Nothing to be done for 'all'.", "1", "42", "0"])
  })

  test("git clones a repository, and both are whole", { timeout: TIMEOUT_MS }, async () => {
    const made = await sandbox.shell(`mkdir ${folder}/git`, { check: true })
    expect(made.stderr).toBe("")
    expect(await client("git.sh", `${folder}/git`)).toEqual(["101", "6", "same", "equal"])
  })

  test("apt installs packages from a folder, and removes one", {
    timeout: TIMEOUT_MS,
  }, async () => {
    await sandbox.shell(`mkdir ${folder}/apt`, { check: true })
    expect(await client("apt.sh", `${folder}/apt`)).toEqual([
      "Hello, world!",
      "42",
      "jq installed",
      "libjq1 installed",
      "libonig5 installed",
    ])
  })

  test("sqlite loses nothing that it committed when it is killed", { timeout: TIMEOUT_MS }, async () => {
    expect(await client("sqlite_kill.py", folder, KILLS)).toEqual(["delete ok", "wal ok"])
  })

  test.each([
    ["through the page cache", 0],
    ["past the page cache", 1],
  ])("fio finds every block by its crc32c, %s", { timeout: TIMEOUT_MS }, async (_, direct) => {
    const [line = ""] = await client("fio.sh", folder, `${FIO_MIB}M`, direct)
    const bytes = FIO_MIB * 2 ** 20
    expect(JSON.parse(line)).toEqual({ error: 0, written: bytes, verified: bytes })
  })

  test("tar unpacks a source tree of which every byte is right", { timeout: TIMEOUT_MS }, async () => {
    const archive = `/trees/${tree.archive.slice(dirname(tree.archive).length + 1)}`
    await sandbox.shell(`mkdir ${folder}/tree && tar -C ${folder}/tree -xf ${archive}`, {
      check: true,
      timeoutMs: TIMEOUT_MS,
    })
    await client("forget.py", `${folder}/tree`)
    const digest = await client("tree_digest.sh", `${folder}/tree`)
    expect(digest.join("\n")).toBe(tree.digest.trim())
    expect(Number(digest[0])).toBeGreaterThanOrEqual(TREE ? 1 : FILES)
  })
})

test("the host sees the same tree in the folder, and the same databases", () => {
  const digest = join(FIXTURES, "tree_digest.sh")
  const folder = join(shared, "work")
  expect(execFileSync("sh", [digest, join(folder, "tree")], { encoding: "utf8" })).toBe(tree.digest)
  expect(readdirSync(folder)).toEqual(expect.arrayContaining(["delete.db", "wal.db", "calculator"]))
})
