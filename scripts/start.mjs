// npm start: sets up what is missing, builds, makes a small local image and runs a container from it in a sandbox.
import { localImage } from "./images/index.mjs"
import { setUp } from "./setup/index.mjs"
import { ROOT } from "./setup/paths.mjs"
import { main, note } from "./setup/report.mjs"
import { runAttached } from "./setup/run.mjs"

const RUNTIME = `${ROOT}/examples/example-runtime/dist/main.js`

/** What the container shows: that it has a kernel of its own, its image's userland, and nothing of this machine. */
const TOUR = [
  'echo "Hello from a container in a sandbox of its own."',
  'echo "kernel:    $(uname -srm)"',
  'echo "userland:  $(. /etc/os-release; echo "$PRETTY_NAME")"',
  'echo "processes: $(ls -d /proc/[0-9]* | wc -l), this one is $$"',
  "echo \"memory:    $(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MiB\"",
].join("; ")

await main(async () => {
  const since = performance.now()
  await setUp({ groups: ["build", "start"] })
  const image = await localImage("busybox")
  note(
    `  ready in ${((performance.now() - since) / 1000).toFixed(2)} s: example-runtime run --rm oci:${image.slice(ROOT.length + 1)} sh -c …`,
  )
  return runAttached(process.execPath, [RUNTIME, "run", "--rm", `oci:${image}`, "sh", "-c", TOUR])
})
