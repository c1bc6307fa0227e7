// The exits of a guest of a few bytes, and a machine from nothing to its first exit: ours beside the same in C, over the
// same KVM node.
import { accessSync, constants } from "node:fs"
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { Skip } from "../harness.mjs"
import { output } from "../process.mjs"

const KVM = "/dev/kvm"
const OURS = fileURLToPath(new URL("../backends/kvm-exits.mjs", import.meta.url))
/** So many that the one exit in JavaScript that ends a block does not count. */
const NATIVE_BLOCK = "10000"
const JS_BLOCK = "500"
/** So many that most of them meet compiled JavaScript: a program that makes machines all day does. */
const BUILDS = "300"

const microseconds = async commandLine => JSON.parse(await output(commandLine)).us
const atMostOfPeer = limit => ({
  text: `at most ${limit} of the peer`,
  met: (_, ratio) => ratio !== undefined && ratio <= limit,
})
const atMostMore = limitUs => ({
  text: `at most ${limitUs} us more than the peer`,
  met: (ours, ratio) => ratio !== undefined && ours - ours / ratio <= limitUs,
})

export default {
  name: "kvm-exits",
  description: "KVM exits answered natively and in JavaScript, and a new machine's first exit",
  async prepare() {
    try {
      accessSync(KVM, constants.R_OK | constants.W_OK)
    } catch (error) {
      throw new Skip(
        `${KVM} cannot be opened here (${error.code}): npm run kvm-host -- npm run bench -- kvm-exits`,
      )
    }
    const inC = await compileFrontEnd("kvm_exits")
    const line = (name, ours, peer, goal) => ({
      name,
      unit: "us",
      better: "lower",
      ours: () => microseconds([process.execPath, OURS, ...ours]),
      peer: { name: "the same in C", measure: () => microseconds([inC, ...peer]) },
      goal,
    })
    return [
      line(
        "port exit, answered natively",
        ["native", NATIVE_BLOCK],
        ["exits", NATIVE_BLOCK],
        atMostOfPeer(1.05),
      ),
      line(
        "port exit, answered in JavaScript by run()",
        ["run", JS_BLOCK],
        ["exits", JS_BLOCK],
        atMostMore(10),
      ),
      line(
        "port exit, answered in JavaScript for a VcpuThread",
        ["js", JS_BLOCK],
        ["exits", JS_BLOCK],
        atMostMore(10),
      ),
      ...["2", "128"].map(mib =>
        line(
          `machine of ${mib} MiB built, to its first exit`,
          ["build", BUILDS, mib],
          ["build", BUILDS, mib],
          atMostOfPeer(1.2),
        ),
      ),
    ]
  },
}
