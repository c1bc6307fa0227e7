// Images from a registry on this machine: pulled and unpacked, pulled again, and what a second sandbox of one image takes.
import { spawn } from "node:child_process"
import { once } from "node:events"
import { rmSync } from "node:fs"
import { setTimeout as delay } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { ROOT } from "../../scripts/setup/paths.mjs"
import { MemoryGroup, whyNoMemoryGroup } from "../cgroup.mjs"
import { goals } from "../harness.mjs"
import { imageRegistry, LAYER_BYTES } from "../image-registry.mjs"
import { layerCases } from "../layer-cases.mjs"
import { lazyCases } from "../lazy-cases.mjs"
import { complete, output, wallMs, which } from "../process.mjs"
import { SharedMeasurement } from "../shared-measurement.mjs"

const { ImageStore } = await import(`${ROOT}/packages/oci-image/dist/index.js`)
const OURS = `${ROOT}/examples/example-runtime/dist/main.js`
const PULL = fileURLToPath(new URL("../backends/pull.mjs", import.meta.url))
const MIB = 1024 * 1024
const LAYERS = 5
/** Of the image that is fetched as it is read: 500 MB and more. */
const LAZY_LAYERS = 13
const IMAGE_BYTES = LAYERS * LAYER_BYTES
const SETTLE_MS = 1000
/** Reads some 20 MB of the image, says so, then waits until it is told to end, which a first process has to ask for. */
const READER = [
  "/bin/sh",
  "-c",
  "trap exit TERM; cat /data/0/9000000/*/* > /dev/null; echo up; sleep 1000 & wait",
]
const END_LIMIT_MS = 5000

const rate = ms => IMAGE_BYTES / 1e6 / (ms / 1000)

/** Our command line with a store of its own. */
function ours(folder, registries) {
  const env = { ...process.env, TS_VMM_IMAGE_DIR: `${folder}/store`, TS_VMM_STATE_DIR: `${folder}/state` }
  return {
    store: `${folder}/store`,
    command: (...args) => [process.execPath, OURS, ...args],
    options: { env: { ...env, TS_VMM_REGISTRIES: registries, DOCKER_CONFIG: folder } },
  }
}

/** Those who do the same with commands: how an image is brought in and unpacked, how again, and what to remove between. */
function peersOf(folder, name) {
  const [layout, bundle] = [`${folder}/skopeo`, `${folder}/bundle`]
  const copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
  const roots = [
    "--root",
    `${folder}/podman`,
    "--runroot",
    `${folder}/podman-run`,
    "--storage-driver",
    "overlay",
  ]
  const podman = ["podman", ...roots]
  const skopeo = [...copy, `docker://${name}`, `oci:${layout}:latest`]
  return [
    {
      name: "skopeo + umoci",
      programs: ["skopeo", "umoci"],
      first: [skopeo, ["umoci", "unpack", "--image", `${layout}:latest`, bundle]],
      again: [skopeo],
      clean: () => {
        for (const path of [layout, bundle]) rmSync(path, { recursive: true, force: true })
      },
    },
    {
      name: "podman",
      programs: ["podman"],
      first: [[...podman, "pull", "--quiet", "--tls-verify=false", name]],
      again: [[...podman, "pull", "--quiet", "--tls-verify=false", name]],
      clean: () => output([...podman, "rmi", "--all", "--force"]),
    },
  ]
}

async function total(commands) {
  let ms = 0
  for (const command of commands) ms += await wallMs(command)
  return ms
}

const missingOf = ({ programs }) => {
  const missing = programs.filter(program => !which(program))
  if (missing.length > 0) return `${missing.join(", ")} is not installed`
  return process.getuid() === 0 ? undefined : "needs root"
}

/** A line for each peer: ours is measured once a round. */
function beside(peers, shared, of, line) {
  return peers.map((peer, index) => {
    const missing = missingOf(peer)
    return {
      ...line,
      name: `${line.name}, beside ${peer.name}`,
      ours: () => shared.figure(peer.name, of),
      ...(missing
        ? { missing: `${peer.name}: ${missing}` }
        : { peer: { name: peer.name, measure: () => line.measure(peer) } }),
      ...(index === 0 && { goal: line.goal }),
    }
  })
}

function pullCases(own, peers, name) {
  const first = new SharedMeasurement(async () => {
    rmSync(own.store, { recursive: true, force: true })
    return wallMs(own.command("pull", name), own.options)
  })
  const again = new SharedMeasurement(() => wallMs(own.command("pull", name), own.options))
  return [
    ...beside(peers, first, rate, {
      name: `pull and unpack ${Math.round(IMAGE_BYTES / 1e6)} MB`,
      unit: "MB/s",
      better: "higher",
      goal: goals.ratioAtLeast(1.2),
      measure: async peer => {
        await peer.clean()
        return rate(await total(peer.first))
      },
    }),
    ...beside(peers, again, ms => ms, {
      name: "pull again, nothing new",
      unit: "ms",
      better: "lower",
      goal: goals.ratioAtMost(1),
      measure: peer => total(peer.again),
    }),
  ]
}

/** The same as a library: without node's start. Whose only form is a command is beside it with its own start. */
function libraryCases(folder, name, registries, peers) {
  const store = `${folder}/library`
  const pulled = new SharedMeasurement(async () => {
    rmSync(store, { recursive: true, force: true })
    return JSON.parse(await output([process.execPath, PULL, name, store, registries]))
  })
  const figure = (what, of) => ({ name: `as a library: ${what}`, ours: () => pulled.figure(what, of) })
  return [
    { ...figure("pull and unpack", ({ firstMs }) => rate(firstMs)), unit: "MB/s", better: "higher" },
    ...beside(peers, pulled, ({ againMs }) => againMs, {
      name: "as a library: pull again, nothing new",
      unit: "ms",
      better: "lower",
      goal: goals.ratioAtMost(1),
      measure: peer => total(peer.again),
    }),
    {
      ...figure("memory beside what it began with", ({ extraMib }) => extraMib),
      unit: "MiB",
      better: "lower",
      goal: goals.atMost(100, "MiB"),
    },
  ]
}

/** Starts a sandbox of the image, in a memory group of its own if there is one, until its program has read. */
async function startReader(own, name, group) {
  const command = own.command("run", "--rm", "--pull", "never", "--hypervisor", "uml", name, ...READER)
  const [program, ...args] = group ? group.wrap(command) : command
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], ...own.options })
  const closed = once(child, "close")
  for await (const chunk of child.stdout.iterator({ destroyOnReturn: false }))
    if (`${chunk}`.includes("up")) break
  child.stdout.resume()
  await delay(SETTLE_MS)
  return async () => {
    child.kill("SIGTERM")
    const left = () => group?.processes() ?? []
    for (const limit = Date.now() + END_LIMIT_MS; left().length > 0; await delay(50))
      if (Date.now() > limit) for (const pid of left()) process.kill(pid, "SIGKILL")
    await closed
    group?.remove()
  }
}

/** MiB of file pages that were charged to a group: whoever touches a page first pays for it. */
function filePages(group) {
  if (!group) return Number.NaN
  const { total, anon, shmem, kernel } = group.read()
  return (total - anon - shmem - kernel) / MIB
}

/** Two sandboxes of one image, the first on a cold page cache. */
async function measureTwo(own, name, groups) {
  const store = await ImageStore.open(own.store)
  const { parts } = (await store.get(name)).disk()
  for (const { path } of parts) await complete(["dd", `if=${path}`, "iflag=nocache", "count=0"])
  const before = (await store.diskUsage()).total
  const ends = []
  const pages = []
  try {
    for (const group of groups) {
      ends.push(await startReader(own, name, group))
      pages.push(filePages(group))
    }
    return { first: pages[0], second: pages[1], unpacked: (await store.diskUsage()).total - before }
  } finally {
    for (const end of ends) await end()
  }
}

function sandboxCases(own, name) {
  const reason = whyNoMemoryGroup()
  let count = 0
  const group = () => (reason ? undefined : new MemoryGroup(`ts-vmm-bench-${process.pid}-${++count}`))
  const shared = new SharedMeasurement(() => measureTwo(own, name, [group(), group()]))
  const unpacked = {
    name: "two sandboxes of one image: bytes that the store grows by",
    unit: "B",
    better: "lower",
    ours: () => shared.figure("unpacked", measured => measured.unpacked),
    goal: goals.atMost(0, "B"),
  }
  if (reason) return [{ ...unpacked, missing: `pages of the second's files: ${reason}` }]
  const pages = {
    name: "second sandbox of one image: pages of its files",
    unit: "MiB",
    better: "lower",
    ours: () => shared.figure("second", ({ second }) => second),
    peer: { name: "the first", measure: () => shared.figure("first", ({ first }) => first) },
    goal: goals.ratioAtMost(0.2),
  }
  return [pages, unpacked]
}

export default {
  name: "images",
  description: "images from a registry",
  async prepare({ folder, onEnd }) {
    const { registries, addImage } = await imageRegistry(folder, onEnd)
    const [name, large] = [await addImage(LAYERS), await addImage(LAZY_LAYERS)]
    const own = ours(folder, registries)
    return [
      ...pullCases(own, peersOf(folder, name), name),
      ...libraryCases(folder, name, registries, peersOf(folder, name)),
      ...(await layerCases(folder)),
      ...sandboxCases(own, name),
      ...(await lazyCases(ours(`${folder}/lazy`, registries), large, folder, onEnd)),
    ]
  },
}
