import { execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Fields, Layout, struct } from "@ts-vmm/vm-memory/layout"
import { expect, test } from "vitest"
import * as defs from "./defs.js"

const STRUCTURES: Readonly<Record<string, Fields>> = {
  vhost_vring_state: defs.VHOST_VRING_STATE,
  vhost_vring_file: defs.VHOST_VRING_FILE,
  vhost_vring_addr: defs.VHOST_VRING_ADDR,
  vhost_memory: defs.VHOST_MEMORY,
  vhost_memory_region: defs.VHOST_MEMORY_REGION,
}

/** Sizes and offsets of structures, by the name in C of each. */
function layouts(): [expression: string, value: number][] {
  return Object.entries(STRUCTURES).flatMap(([name, fields]) => [
    [`sizeof(struct ${name})`, struct(fields).span],
    ...Object.entries(Layout.offsets(fields)).map(([field, offset]): [string, number] => [
      `offsetof(struct ${name}, ${field})`,
      offset,
    ]),
  ])
}

/** What a C compiler makes of expressions, by this machine's headers. */
function inC(expressions: readonly string[]): number[] {
  const folder = mkdtempSync(join(tmpdir(), "vhost-defs-"))
  try {
    const prints = expressions.map(one => `  printf("%lld\\n", (long long)(${one}));`)
    const source = [
      "#include <stddef.h>",
      "#include <stdio.h>",
      "#include <linux/vhost.h>",
      "#include <linux/virtio_vsock.h>",
      `int main(void) {\n${prints.join("\n")}\n}`,
    ]
    writeFileSync(join(folder, "probe.c"), `${source.join("\n")}\n`)
    execFileSync("gcc", ["-o", join(folder, "probe"), join(folder, "probe.c")], { stdio: "pipe" })
    const said = execFileSync(join(folder, "probe"), { encoding: "utf8" })
    return said.trim().split("\n").map(Number)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const missing = ["/usr/bin/gcc", "/usr/include/linux/vhost.h"].find(path => !existsSync(path))

test.skipIf(missing)(
  `a C compiler says the same of <linux/vhost.h>${missing ? ` (skipped: there is no ${missing})` : ""}`,
  { timeout: 60_000 },
  () => {
    const known: [string, number][] = [
      ...Object.entries(defs.VHOST_REQUESTS),
      ["VHOST_FILE_UNBIND", defs.VHOST_FILE_UNBIND],
      ["1 << VIRTIO_VSOCK_F_SEQPACKET", Number(defs.VIRTIO_VSOCK_F_SEQPACKET)],
      ["sizeof(struct virtio_vsock_config)", defs.VSOCK_CONFIG_SIZE],
      ...layouts(),
    ]
    const values = inC(known.map(([expression]) => expression))
    expect(known.map(([expression], index) => [expression, values[index]])).toEqual(known)
  },
)
