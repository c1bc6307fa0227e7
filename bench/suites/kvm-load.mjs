// A 50 MiB ELF kernel from the page cache into fresh guest memory: every header checked and each segment at its
// place, beside one pread a segment by someone who knows the file.
import { join } from "node:path"
import { ROOT } from "../../scripts/setup/paths.mjs"
import { goals } from "../harness.mjs"

export default {
  name: "kvm-load",
  description: "a kernel image on its way into guest memory",
  async prepare({ folder }) {
    const { loadMs, makeElf, preadMs } = await import(`${ROOT}/packages/linux-loader/bench/elf-load.mjs`)
    const path = join(folder, "vmlinux")
    makeElf(path)
    return [
      {
        name: "50 MiB ELF",
        unit: "ms",
        better: "lower",
        ours: async () => loadMs(path),
        peer: { name: "pread of its segments", measure: async () => preadMs(path) },
        goal: goals.ratioAtMost(1.2),
      },
    ]
  },
}
