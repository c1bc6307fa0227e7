import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { run } from "../setup/run.mjs"
import { BUSYBOX_CONFIG, busyboxEntries } from "./busybox.mjs"
import { writeOciLayout } from "./oci-layout.mjs"
import { tar } from "./tar.mjs"

/** What the second layer changes, replaces and takes away again. */
const BELOW = [
  { name: "data/", type: "dir" },
  { name: "data/kept", type: "file", data: "from the first layer\n" },
  { name: "data/removed", type: "file", data: "must not be seen\n" },
  { name: "data/replaced", type: "file", data: "old\n", uid: 5, gid: 6, mode: 0o600 },
  { name: "opaque/", type: "dir" },
  { name: "opaque/hidden", type: "file", data: "must not be seen\n" },
  { name: "was-dir/", type: "dir" },
  { name: "was-dir/inside", type: "file", data: "must not be seen\n" },
  { name: "was-file", type: "file", data: "must not be seen\n" },
]

const MIDDLE = [
  { name: "data/.wh.removed", type: "file" },
  {
    name: "data/replaced",
    type: "file",
    data: "new\n",
    uid: 1000,
    gid: 50,
    mode: 0o640,
    mtime: 1_700_000_000,
  },
  { name: "opaque/", type: "dir", mode: 0o750 },
  { name: "opaque/.wh..wh..opq", type: "file" },
  { name: "opaque/shown", type: "file", data: "from the second layer\n" },
  { name: "was-dir", type: "file", data: "a file now\n" },
  { name: "was-file/", type: "dir" },
  { name: "was-file/inside", type: "file", data: "a folder now\n" },
]

const TOP = [
  { name: "kinds/", type: "dir" },
  { name: "kinds/file", type: "file", data: "linked\n" },
  { name: "kinds/hardlink", type: "hardlink", link: "kinds/file" },
  { name: "kinds/symlink", type: "symlink", link: "../data/kept" },
  { name: "kinds/setuid", type: "file", mode: 0o4755, data: "#!/bin/sh\n" },
  { name: "kinds/null", type: "char", major: 1, minor: 3, mode: 0o666 },
  { name: "kinds/loop", type: "block", major: 7, minor: 0, mode: 0o660, gid: 6 },
  { name: "kinds/fifo", type: "fifo", mode: 0o600 },
  {
    name: "kinds/xattr",
    type: "file",
    data: "x",
    xattrs: { "user.colour": "green", "user.bytes": Buffer.from([0, 1, 10, 255]) },
  },
  { name: `kinds/${"long".repeat(50)}`, type: "file", data: "a name of 200 bytes\n" },
  { name: "kinds/umläut", type: "file", data: "utf-8\n" },
  { name: "kinds/empty", type: "file" },
  { name: "kinds/big", type: "file", data: Buffer.alloc(3 * 1024 * 1024 + 17, "0123456789abcdef") },
]

async function zstd(bytes) {
  const folder = mkdtempSync(`${tmpdir()}/ts-vmm-zstd-`)
  try {
    writeFileSync(`${folder}/layer`, bytes)
    await run("zstd", ["-q", `${folder}/layer`])
    return readFileSync(`${folder}/layer.zst`)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/**
 * Three layers (gzip, uncompressed, zstd) with whiteouts, an opaque folder, changed kinds, links, devices, owners,
 * xattrs and long names, and a config that sets everything a container takes from it.
 */
export async function writeLayeredImage(folder) {
  const top = tar(TOP)
  const layers = [
    { tar: tar([...busyboxEntries(), ...BELOW]) },
    { tar: tar(MIDDLE), compression: "none" },
    { tar: top, compression: "zstd", packed: await zstd(top) },
  ]
  const config = {
    Env: [...BUSYBOX_CONFIG.Env, "COLOUR=from the image"],
    Entrypoint: ["/bin/echo", "entry"],
    Cmd: ["from", "image"],
    User: "alice",
    WorkingDir: "/home/alice",
  }
  writeOciLayout(folder, { layers, config })
}
