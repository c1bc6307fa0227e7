import { spawn } from "node:child_process"
import { once } from "node:events"
import { readFileSync } from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"
import { expect, test } from "vitest"
import { isOwnerAlive, ownedName } from "./owner.js"

/** A name as process `pid` would give it. */
function nameOf(pid: number): string {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1")
  const start = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]
  return ownedName().replace(/^\d+-\d+/, `${pid}-${start}`)
}

const stateOf = (pid: number) => / ([A-Z]) /.exec(readFileSync(`/proc/${pid}/stat`, "latin1"))?.[1]

test("a process is alive, one of the same number that began at another time is not", () => {
  expect(isOwnerAlive(ownedName(), 0)).toBe(true)
  expect(isOwnerAlive(nameOf(process.pid), 0)).toBe(true)
  expect(isOwnerAlive(ownedName().replace(/^(\d+)-\d+/, "$1-1"), Date.now())).toBe(false)
  expect(isOwnerAlive("nobody's", Date.now())).toBe(false)
})

test("a process of another namespace is alive while its file is young", () => {
  const foreign = ownedName().replace(/^(\d+-\d+)-\d+/, "$1-1")
  expect(isOwnerAlive(foreign, Date.now())).toBe(true)
  expect(isOwnerAlive(foreign, Date.now() - 25 * 60 * 60 * 1000)).toBe(false)
})

test("I14: a process that nobody waited for is dead", async () => {
  // The shell's child stays a zombie, since what the shell becomes never waits.
  const parent = spawn("sh", ["-c", "sleep 600 & echo $!; exec sleep 600"], {
    stdio: ["ignore", "pipe", "inherit"],
  })
  try {
    const [line] = await once(parent.stdout, "data")
    const pid = Number(line)
    const name = nameOf(pid)
    expect(isOwnerAlive(name, 0)).toBe(true)
    process.kill(pid, "SIGKILL")
    while (stateOf(pid) !== "Z") await sleep(5)
    expect(isOwnerAlive(name, 0)).toBe(false)
  } finally {
    parent.kill("SIGKILL")
  }
})
