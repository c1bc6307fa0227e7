import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs"

const V1 = "/sys/fs/cgroup/memory"
const V2 = "/sys/fs/cgroup"

const readNumber = path => Number(readFileSync(path, "utf8"))

function readStat(path) {
  const lines = readFileSync(path, "utf8").trim().split("\n")
  return Object.fromEntries(lines.map(line => line.split(" ")).map(([name, value]) => [name, Number(value)]))
}

/** The kernel's two ways of counting memory: which files tell what. */
const VERSIONS = {
  v1: {
    base: V1,
    usable: () => existsSync(`${V1}/memory.usage_in_bytes`),
    read(group) {
      const stat = readStat(`${group}/memory.stat`)
      const kernel = readNumber(`${group}/memory.kmem.usage_in_bytes`)
      return {
        total: readNumber(`${group}/memory.usage_in_bytes`),
        anon: stat.rss,
        shmem: stat.shmem ?? 0,
        kernel,
      }
    },
  },
  v2: {
    base: V2,
    usable: () =>
      existsSync(`${V2}/cgroup.controllers`) &&
      readFileSync(`${V2}/cgroup.controllers`, "utf8").includes("memory"),
    read(group) {
      const stat = readStat(`${group}/memory.stat`)
      return {
        total: readNumber(`${group}/memory.current`),
        anon: stat.anon,
        shmem: stat.shmem,
        kernel: stat.kernel ?? 0,
      }
    },
  },
}

/** Why no memory group can be made here; undefined when one can. */
export function whyNoMemoryGroup() {
  if (process.getuid() !== 0) return "counting memory needs root"
  return Object.values(VERSIONS).some(({ usable }) => usable())
    ? undefined
    : "this machine has no memory cgroup"
}

/** A memory control group. Bytes: total, anon (private memory), shmem (shared memory, memfds), kernel. */
export class MemoryGroup {
  #version = Object.values(VERSIONS).find(({ usable }) => usable())
  #path

  constructor(name) {
    if (this.#version === VERSIONS.v2) writeFileSync(`${V2}/cgroup.subtree_control`, "+memory")
    this.#path = `${this.#version.base}/${name}`
    mkdirSync(this.#path)
  }

  /** The same command line, run in this group. */
  wrap(commandLine) {
    return ["sh", "-c", `echo $$ > ${this.#path}/cgroup.procs && exec "$@"`, "sh", ...commandLine]
  }

  read() {
    return this.#version.read(this.#path)
  }

  /** Ids of the processes in it. */
  processes() {
    return readFileSync(`${this.#path}/cgroup.procs`, "utf8").trim().split("\n").filter(Boolean).map(Number)
  }

  remove() {
    rmdirSync(this.#path)
  }
}
