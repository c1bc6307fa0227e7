import { readFileSync } from "node:fs"
import { describe, expect, test } from "vitest"
import { DeviceFd, Kvm, VcpuFd, VmFd } from "./index.js"

const OWNERS = { Kvm, VmFd, VcpuFd, DeviceFd }
/** What an instance has from its constructor and not from its class. */
const FIELDS = ["VcpuFd.runMapping", "VcpuFd.arm64"]
const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8")
const named = [...readme.matchAll(/`((?:Kvm|VmFd|VcpuFd|DeviceFd)\.\w+)`/g)].map(match => match[1] as string)

/** The getters and methods of a class and of those below it, without what every object has. */
function membersOf(name: keyof typeof OWNERS): string[] {
  const found = new Set<string>()
  for (let level = OWNERS[name].prototype; level !== Object.prototype; level = Object.getPrototypeOf(level))
    for (const member of Object.getOwnPropertyNames(level)) found.add(`${name}.${member}`)
  return [...found]
}

/** Of every fd: what no table needs to say. Then the helpers that are there for the classes themselves. */
const COMMON =
  /\.(constructor|fd|closed|close|call|readStruct|writeStruct|exchangeStruct|readArray|readUncountedArray|writeArray|pointee)$/
/** Views of the shared page that the crate has through get_kvm_run. */
const PAGE = /\.(setRequestInterruptWindow|readyForInterruptInjection|interruptFlag|runFlags)$/

describe("the table of the Rust crate's methods", () => {
  test("names only what there is", () => {
    const members = new Set([...Object.keys(OWNERS)].flatMap(name => membersOf(name as keyof typeof OWNERS)))
    expect(named.filter(name => !members.has(name) && !FIELDS.includes(name))).toEqual([])
  })

  test.each(["Kvm", "VmFd", "VcpuFd", "DeviceFd"] as const)("names every method of %s", name => {
    const missing = membersOf(name).filter(
      member => !named.includes(member) && !COMMON.test(member) && !PAGE.test(member),
    )
    expect(missing).toEqual([])
  })

  test("gives a reason for everything that is missing here", () => {
    const blanks = [...readme.matchAll(/^\| (?!none)[^|]+ \| none(.*) \|$/gm)].map(
      match => match[1] as string,
    )
    expect(blanks.length).toBeGreaterThan(0)
    for (const reason of blanks) expect(reason).toMatch(/^: .{20,}/)
  })
})
