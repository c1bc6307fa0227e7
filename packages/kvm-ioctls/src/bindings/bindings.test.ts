import { existsSync, readFileSync } from "node:fs"
import { describe, expect, test } from "vitest"
import { headerTrees, type Probe, probeHeaders } from "../../scripts/probe-headers.mjs"
import { ARM64_CORE_OFFSETS } from "../arm64.js"
import * as commonRequests from "../ioctls/any-arch.js"
import * as arm64Requests from "../ioctls/arm64.js"
import type { IoctlRequest } from "../ioctls/request.js"
import * as x86Requests from "../ioctls/x86-64.js"
import * as commonStructs from "../structs/any-arch.js"
import * as arm64Structs from "../structs/arm64.js"
import { FlexibleArray } from "../structs/flexible-array.js"
import { KVM_HYPERV_EXIT_OFFSETS, KVM_RUN_OFFSETS, KVM_XEN_EXIT_OFFSETS } from "../structs/kvm-run.js"
import { KvmStruct } from "../structs/struct.js"
import * as x86Structs from "../structs/x86-64.js"
import * as arm64 from "./arm64.js"
import * as arm64Layouts from "./arm64-layouts.js"
import { Cap } from "./cap.js"
import * as common from "./common.js"
import * as x86 from "./x86-64.js"
import * as x86Layouts from "./x86-64-layouts.js"

interface Layout {
  readonly size: number
  readonly fields: ReadonlyMap<string, number>
}

const ARCHITECTURES = [
  {
    name: "x86-64" as const,
    own: x86,
    layouts: parse(x86Layouts),
    structs: x86Structs,
    requests: x86Requests,
  },
  {
    name: "arm64" as const,
    own: arm64,
    layouts: parse(arm64Layouts),
    structs: arm64Structs,
    requests: arm64Requests,
  },
]

/** Names that are ours: numbers on their own, which the kernel passes without a structure. */
const NOT_STRUCTURES = /^(__u8|__u32|__u64|int)$/

describe.each(ARCHITECTURES)("what is declared for $name", ({ layouts, structs, requests }) => {
  const declared = [...structures(commonStructs), ...structures(structs)].filter(
    one => !NOT_STRUCTURES.test(one.name),
  )

  test.each(declared.map(struct => ({ name: struct.name, struct })))(
    "$name is as large as in C",
    ({ struct }) => {
      const [outer = "", inner] = struct.name.split(".")
      // What is inside another structure has no size of its own in the table: its fields say enough.
      if (inner === undefined) expect(struct.span).toBe(layouts.structures.get(outer)?.size)
      expect(offsetsIn(layouts, struct)).toEqual(struct.offsets)
    },
  )

  const all = [...requestsOf(commonRequests), ...requestsOf(requests)]
  test.each(all)("$name has the number of the headers", ({ name, number }) => {
    expect(number).toBe(layouts.requests.get(name))
  })

  test("kvm_run is where the exits are read from", () => {
    const fields = layouts.structures.get("kvm_run")?.fields
    const known = Object.entries(KVM_RUN_OFFSETS).map(([name, offset]) => [name, fields?.get(name), offset])
    expect(known.filter(([, inC, ours]) => inC !== ours)).toEqual([])
  })

  test.each([
    ["kvm_hyperv_exit", KVM_HYPERV_EXIT_OFFSETS],
    ["kvm_xen_exit", KVM_XEN_EXIT_OFFSETS],
  ])("%s is where its exit is read from", (name, offsets) => {
    const fields = layouts.structures.get(name)?.fields
    expect(Object.fromEntries(Object.keys(offsets).map(field => [field, fields?.get(field)]))).toEqual(
      offsets,
    )
  })
})

test("arm64's core registers are where the headers have them", () => {
  const { structures: table } = parse(arm64Layouts)
  const inC = Object.keys(ARM64_CORE_OFFSETS).map(path => {
    const [outer = "", inner] = path.split(".")
    const nested = outer === "regs" ? "user_pt_regs" : "user_fpsimd_state"
    const base = table.get("kvm_regs")?.fields.get(outer) ?? Number.NaN
    return [path, base + (inner === undefined ? 0 : (table.get(nested)?.fields.get(inner) ?? Number.NaN))]
  })
  expect(Object.fromEntries(inC)).toEqual(ARM64_CORE_OFFSETS)
})

describe.each([
  { where: "this machine", root: "/" },
  { where: "the newer package in .cache", root: ".cache/debian/linux-libc-dev" },
])("the headers of $where", ({ root }) => {
  const trees = headerTrees(root)
  for (const { name, own, layouts } of ARCHITECTURES) {
    const tree = trees[name]
    const missing = tree === undefined || !existsSync("/usr/bin/gcc")
    test.skipIf(missing)(
      `${name}: a C compiler says the same${missing ? " (no such headers here)" : ""}`,
      { timeout: 60_000 },
      () => {
        compare(probeHeaders(tree ?? []), { ...common, ...own }, layouts)
      },
    )
  }
})

/** All that the headers have is as it was committed. What only one side has comes from another kernel: no fault. */
function compare(probe: Probe, constants: Record<string, unknown>, layouts: ReturnType<typeof parse>): void {
  const known = (name: string) => constants[name] ?? capability(name)
  const changed = [...probe.constants].filter(
    ([name, value]) => BigInt((known(name) as number) ?? value) !== value && !GROWS.test(name),
  )
  expect(changed).toEqual([])
  expect([...probe.constants.keys()].filter(name => known(name) !== undefined).length).toBeGreaterThan(250)
  const shared = [...probe.requests].filter(([name]) => layouts.requests.has(name))
  expect(shared.length).toBeGreaterThan(60)
  expect(shared.filter(([name, number]) => BigInt(layouts.requests.get(name) ?? 0) !== number)).toEqual([])
  const moved = [...probe.structures].flatMap(([name, { fields }]) =>
    [...fields].filter(
      ([field, offset]) => (layouts.structures.get(name)?.fields.get(field) ?? offset) !== offset,
    ),
  )
  expect(moved).toEqual([])
  const absent = [...layouts.requests.keys()].filter(name => !probe.requests.has(name))
  if (probe.version === COMMITTED) expect(absent).toEqual([])
  if (absent.length > 0) console.info(`Linux ${probe.version} has no ${absent.join(", ")}`)
}

/** The kernel whose headers the committed files are from. */
const [, COMMITTED] = /of Linux (\d+\.\d+);/.exec(sourceOf("common")) ?? []

/** The number of KVM_CAP_SET_TSS_ADDR as Cap has it; a few names there are spelled in another way and not compared. */
function capability(name: string): number | undefined {
  const words = name.replace("KVM_CAP_", "").toLowerCase().split("_")
  const camelCase = words.map(word => word.charAt(0).toUpperCase() + word.slice(1)).join("")
  return name.startsWith("KVM_CAP_") ? (Cap as Readonly<Record<string, number>>)[camelCase] : undefined
}

/** Masks of valid flags and numbers of kinds: they grow with each kernel. */
const GROWS = /_(VALID_(FLAG_)?MASK|MAX|VALID_FIELDS)$|^KVM_ARM_NUM|_ALL$/

test("the generated files say which kernel they are from, and that they are generated", () => {
  for (const file of ["common", "x86-64", "arm64", "cap", "x86-64-layouts", "arm64-layouts"]) {
    expect(sourceOf(file)).toMatch(
      /^\/\/ Generated by scripts\/generate-bindings\.mjs from the uapi headers of Linux \d+\.\d+;/,
    )
  }
})

function sourceOf(file: string): string {
  return readFileSync(new URL(`./${file}.ts`, import.meta.url), "utf8")
}

/** Where C has the fields of one of our structures. Gaps that the compiler fills have no name there. */
function offsetsIn({ structures: table }: ReturnType<typeof parse>, struct: KvmStruct<unknown>) {
  const [outer = "", inner] = struct.name.split(".")
  const fields = table.get(outer)?.fields
  const base = inner === undefined ? 0 : (fields?.get(inner) ?? Number.NaN)
  const entries = Object.entries(struct.offsets).map(([name, ours]) => {
    const inC = fields?.get(inner === undefined ? name : `${inner}.${name}`)
    return [name, inC === undefined && name === "gap" ? ours : (inC ?? Number.NaN) - base]
  })
  return Object.fromEntries(entries)
}

function structures(module: object): KvmStruct<unknown>[] {
  return Object.values(module).flatMap(one => {
    if (one instanceof KvmStruct) return [one]
    return one instanceof FlexibleArray ? [one.header, one.element] : []
  })
}

function requestsOf(module: object): IoctlRequest[] {
  return Object.values(module) as IoctlRequest[]
}

function parse({ STRUCTURES, REQUESTS }: { readonly STRUCTURES: string; readonly REQUESTS: string }) {
  const structures = new Map<string, Layout>()
  let fields = new Map<string, number>()
  for (const word of STRUCTURES.split(/\s+/)) {
    const [, name = "", separator, number = ""] = /^([^:=]+)([:=])(.+)$/.exec(word) ?? []
    if (separator === "=") fields.set(name, Number(number))
    if (separator !== ":") continue
    fields = new Map()
    structures.set(name, { size: Number(number), fields })
  }
  const requests = REQUESTS.split(/\s+/).filter(word => word !== "")
  return {
    structures,
    requests: new Map(requests.map(word => [word.split("=")[0] ?? "", Number(word.split("=")[1])])),
  }
}
