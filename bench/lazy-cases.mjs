// A program's first output over a line of 100 Mbit/s: with its image fetched as it is read, by an index that was kept of it
// or by the tables of contents of its layers, and after a whole pull.
import { spawn } from "node:child_process"
import { once } from "node:events"
import { writeFileSync } from "node:fs"
import { goals } from "./harness.mjs"
import { output } from "./process.mjs"
import { SharedMeasurement } from "./shared-measurement.mjs"
import { throttle } from "./throttle.mjs"

const MEGABITS = 100

/** Milliseconds until a program of the image says something, and the bytes that came by then. */
async function firstOutput(side, line, name, ...options) {
  const [program, ...args] = side.command(
    "run",
    "--rm",
    "--hypervisor",
    "uml",
    ...options,
    name,
    "echo",
    "up",
  )
  const [begin, bytes] = [performance.now(), line.bytes]
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], ...side.options })
  const closed = once(child, "close")
  await once(child.stdout, "data")
  const first = { ms: performance.now() - begin, bytes: line.bytes - bytes }
  child.stdout.resume()
  await closed
  return first
}

/** The image once more, as skopeo packs it with tables of contents. */
async function withTablesOf(name, path) {
  const target = `${path.join("/").replace(/:.*/, "")}:with-tables`
  const format = ["--dest-compress", "--dest-compress-format", "zstd:chunked"]
  const plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
  const [registry] = name.split("/")
  const copy = ["skopeo", "--insecure-policy", "copy", "--quiet", ...plain, ...format]
  await output([...copy, `docker://${name}`, `docker://${registry}/${target}`])
  return target
}

/**
 * @param {object} side our command line with a store of its own
 * @param {string} name of the image, in a registry on this machine
 */
export async function lazyCases(side, name, folder, onEnd) {
  const [registry, ...path] = name.split("/")
  const { host, line } = await throttle(registry, MEGABITS, onEnd)
  const slow = [host, ...path].join("/")
  const registries = `${folder}/slow.json`
  writeFileSync(registries, JSON.stringify({ hosts: { [host]: { plainHttp: true } } }))
  const own = { ...side, options: { env: { ...side.options.env, TS_VMM_REGISTRIES: registries } } }
  const empty = () => output(own.command("image", "prune", "-af"), own.options)
  const before = line.bytes
  await output(own.command("pull", "-q", "--keep-index", slow), own.options)
  const bytes = line.bytes - before
  // What a start needs is known from the one before.
  await empty()
  await firstOutput(own, line, slow, "--lazy")
  const lazy = new SharedMeasurement(async () => {
    await empty()
    return firstOutput(own, line, slow, "--lazy")
  })
  const withTables = await withTablesOf(name, path)
  const whole = async image => {
    await empty()
    return (await firstOutput(own, line, [host, image].join("/"))).ms
  }
  return [
    {
      name: `first output over ${MEGABITS} Mbit/s, image fetched as it is read`,
      unit: "ms",
      better: "lower",
      ours: () => lazy.figure("ms", ({ ms }) => ms),
      peer: { name: "after a whole pull", measure: () => whole(path.join("/")) },
      goal: goals.ratioAtMost(1 / 3),
    },
    {
      name: `first output over ${MEGABITS} Mbit/s at the first run, by tables of contents (zstd:chunked)`,
      unit: "ms",
      better: "lower",
      ours: async () => {
        await empty()
        return (await firstOutput(own, line, [host, withTables].join("/"), "--lazy")).ms
      },
      peer: { name: "after a whole pull", measure: () => whole(withTables) },
      goal: goals.ratioAtMost(1 / 3),
    },
    {
      name: "part of the image that came before the first output",
      unit: "%",
      better: "lower",
      ours: () => lazy.figure("part", ({ bytes: came }) => (100 * came) / bytes),
      goal: goals.atMost(15, "%"),
    },
  ]
}
