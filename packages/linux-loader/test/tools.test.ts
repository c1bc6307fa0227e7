import { execFileSync, spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { bytesImage, FdtBuilder, loadElf, writeAcpiTables } from "../src/index.js"
import { BARE_MACHINE, FULL_MACHINE } from "../src/testing/acpi-machine.js"
import { fixture } from "../src/testing/fixture.js"

const FIXTURES = fileURLToPath(new URL("./fixtures/", import.meta.url))
const MIB = 2 ** 20
const has = (tool: string) => spawnSync(tool, ["--version"], { stdio: "ignore" }).error === undefined

/** A title that says why its tests do not run where the tool is missing. */
const titled = (tool: string, debianPackage: string) =>
  has(tool) ? tool : `${tool} (skipped: not installed, Debian has it in ${debianPackage})`

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "loader-tools-"))
})
afterAll(() => {
  rmSync(folder, { recursive: true })
})

describe.skipIf(!has("readelf"))(titled("readelf", "binutils"), () => {
  test("sees the segments, entry and note that loadElf finds", () => {
    const text = execFileSync("readelf", ["-lhnW", `${FIXTURES}pvh.elf`], { encoding: "utf8" })
    const segments = [...text.matchAll(/LOAD +\S+ +\S+ +0x(\w+) +\S+ +0x(\w+)/g)].map(match => {
      const [start, size] = match.slice(1).map(hex => Number.parseInt(hex, 16)) as [number, number]
      return { start, end: start + size }
    })
    const note = /Xen.*description data: ((?:\w\w )+)/.exec(text)![1]!
    const kernel = loadElf(arrayBufferMemory([{ start: 0, size: 32 * MIB }]), bytesImage(fixture("pvh.elf")))
    expect(kernel).toEqual({
      format: "elf",
      loadAddress: segments[0]!.start,
      endAddress: segments.at(-1)!.end,
      entry: Number(/Entry point address: +(0x\w+)/.exec(text)![1]),
      pvhEntry: Buffer.from(note.replaceAll(" ", ""), "hex").readUInt32LE(),
    })
  })
})

describe.skipIf(!has("iasl"))(titled("iasl", "acpica-tools"), () => {
  test("still makes the committed bytes of machine.asl", () => {
    const out = join(folder, "machine.aml")
    execFileSync("iasl", ["-oa", "-p", out, `${FIXTURES}machine.asl`], { stdio: "ignore" })
    expect(readFileSync(out).subarray(36)).toEqual(Buffer.from(fixture("machine.aml")).subarray(36))
  })

  test.each([
    ["the full machine", FULL_MACHINE],
    ["the bare machine", BARE_MACHINE],
  ])("disassembles all tables of %s and compiles them again without a complaint", (_, machine) => {
    const memory = arrayBufferMemory([{ start: 0, size: 2 * MIB }])
    const { rsdpAddress, end } = writeAcpiTables(memory, machine)
    const area = Buffer.from(memory.slices(rsdpAddress, end - rsdpAddress)[0]!)
    for (const signature of ["DSDT", "FACP", "APIC"]) {
      const at = area.indexOf(signature)
      writeFileSync(join(folder, `${signature}.dat`), area.subarray(at, at + area.readUInt32LE(at + 4)))
      execFileSync("iasl", ["-d", join(folder, `${signature}.dat`)], { stdio: "ignore" })
      const source = join(folder, `${signature}.dsl`)
      const report = spawnSync("iasl", ["-p", join(folder, "again"), source], { encoding: "utf8" })
      expect(`${report.stdout}${report.stderr}`).toMatch(/0 Errors, 0 Warnings/)
    }
  })
})

describe.skipIf(!has("dtc"))(titled("dtc", "device-tree-compiler"), () => {
  test("still makes the committed bytes of tree.dts", () => {
    const blob = execFileSync("dtc", ["-q", "-I", "dts", "-O", "dtb", `${FIXTURES}tree.dts`])
    expect(blob).toEqual(Buffer.from(fixture("tree.dtb")))
  })

  test("reads what FdtBuilder writes", () => {
    const fdt = new FdtBuilder()
    fdt.root
      .u32("#address-cells", 2)
      .node("a", a => a.node("b", b => b.string("c", "d").u32("e", a.phandle())))
    const input = fdt.finish()
    const text = execFileSync("dtc", ["-q", "-I", "dtb", "-O", "dts"], { input, encoding: "utf8" })
    expect(text.replace(/\s+/g, " ")).toContain(
      '/ { #address-cells = <0x02>; a { phandle = <0x01>; b { c = "d"; e = <0x01>; }; }; };',
    )
  })
})
