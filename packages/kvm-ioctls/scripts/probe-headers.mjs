import { execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/**
 * The include folders of each architecture below `root`, a linux-libc-dev package or a machine's root.
 * An architecture without headers there is missing from the answer.
 * @param {string} root
 * @returns {{ "x86-64"?: string[], arm64?: string[] }}
 */
export function headerTrees(root) {
  const generic = join(root, "usr/include")
  const candidates = {
    "x86-64": ["usr/lib/linux/uapi/x86", "usr/include/x86_64-linux-gnu"],
    arm64: ["usr/lib/linux/uapi/arm64", "usr/include/aarch64-linux-gnu"],
  }
  const found = Object.entries(candidates).flatMap(([name, folders]) => {
    const folder = folders.map(one => join(root, one)).find(one => existsSync(join(one, "asm/kvm.h")))
    return folder === undefined ? [] : [[name, [folder, generic]]]
  })
  return Object.fromEntries(found)
}

/**
 * What linux/kvm.h says, found out by a C program. The layout rules of x86-64 and arm64 are the same for the types
 * that uapi headers use, so the machine's own compiler serves both.
 * @param {string[]} includes include folders, the architecture's first
 * @returns {{ version: string, constants: Map<string, bigint>, requests: Map<string, bigint>,
 *   structures: Map<string, { size: number, fields: Map<string, number> }> }}
 */
export function probeHeaders(includes) {
  const folder = mkdtempSync(join(tmpdir(), "kvm-bindings-"))
  try {
    return probeIn(
      folder,
      includes.flatMap(one => ["-isystem", one]),
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function probeIn(folder, flags) {
  const source = join(folder, "probe.c")
  writeFileSync(source, "#include <linux/kvm.h>\n#include <linux/version.h>\n")
  const macros = macroBodies(gcc(["-E", "-dM", ...flags, source]))
  const members = structureMembers(gcc(["-E", "-P", ...flags, source]))
  const lines = [...numberLines(macros), ...structureProbes(members)]
  const output = runProbe(folder, flags, lines)
  return sortOutput(output, macros)
}

function gcc(args) {
  return execFileSync("gcc", args, {
    encoding: "utf8",
    maxBuffer: 2 ** 26,
    stdio: ["ignore", "pipe", "pipe"],
  })
}

/** Macros without parameters that can be numbers: name to replacement. */
function macroBodies(text) {
  const found = text.matchAll(/^#define (KVM[A-Z]*_?[A-Z0-9a-z_]*|LINUX_VERSION_CODE) (\S.*)$/gm)
  return new Map([...found].map(([, name, body]) => [name, body]))
}

function numberLines(macros) {
  return [...macros.keys()].map(name => `printf("number ${name} %llu\\n", (unsigned long long)(${name}));`)
}

function structureProbes(structures) {
  return [...structures].flatMap(([name, fields]) => [
    `printf("size ${name} %zu\\n", sizeof(struct ${name}));`,
    ...fields.map(field => `printf("field ${name} ${field} %zu\\n", offsetof(struct ${name}, ${field}));`),
  ])
}

/** arm64's asm/kvm.h uses these without including what defines them, which is not part of uapi. */
const SIZES = ["-DSZ_4K=0x1000", "-DSZ_64K=0x10000", "-DSZ_128K=0x20000"]

/** Compiles and runs; what the compiler refuses (structures of other processors) is left out the second time. */
function runProbe(folder, flags, lines) {
  const source = join(folder, "probe.c")
  const program = join(folder, "probe")
  const compile = statements => {
    writeFileSync(source, probeSource(statements))
    gcc([
      ...flags,
      ...SIZES,
      "-w",
      "-Werror=implicit-function-declaration",
      "-fmax-errors=0",
      "-o",
      program,
      source,
    ])
  }
  try {
    compile(lines)
  } catch (error) {
    const bad = new Set(
      [...String(error.stderr).matchAll(/probe\.c:(\d+):/g)].map(([, line]) => Number(line) - FIRST_LINE),
    )
    compile(lines.map((line, index) => (bad.has(index) ? "" : line)))
  }
  return execFileSync(program, { encoding: "utf8" })
}

/** Where the statements start, so that no line of an #include is taken for one. */
const FIRST_LINE = 1000

/** Each line from there on holds one statement in a function of its own: gcc reports an unknown name once a function. */
function probeSource(statements) {
  const functions = statements.map((statement, index) => `static void p${index}(void) { ${statement} }`)
  const calls = statements.map((_, index) => `p${index}();`).join(" ")
  const [first, ...rest] = functions
  const includes = ["linux/kvm.h", "linux/version.h", "stddef.h", "stdio.h"].map(name => `#include <${name}>`)
  const bits = ["#if __has_include(<linux/bits.h>)", "#include <linux/bits.h>", "#endif"]
  return [
    ...includes,
    ...bits,
    `#line ${FIRST_LINE}`,
    first,
    ...rest,
    `int main(void) { ${calls} return 0; }`,
    "",
  ].join("\n")
}

function sortOutput(output, macros) {
  const result = { version: "", constants: new Map(), requests: new Map(), structures: new Map() }
  for (const line of output.split("\n")) {
    const [kind, name, ...rest] = line.split(" ")
    if (kind === "size") result.structures.set(name, { size: Number(rest[0]), fields: new Map() })
    if (kind === "field") result.structures.get(name)?.fields.set(rest[0], Number(rest[1]))
    if (kind !== "number") continue
    const value = BigInt(rest[0])
    if (name === "LINUX_VERSION_CODE") result.version = `${value >> 16n}.${(value >> 8n) & 255n}`
    else (/^_IO[WR]*\(/.test(macros.get(name)) ? result.requests : result.constants).set(name, value)
  }
  return { ...result, constants: sorted(result.constants), requests: sorted(result.requests) }
}

/** By name, so that a new kernel gives a small difference. */
function sorted(map) {
  return new Map([...map].sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Every `struct kvm_…`, and what is inside arm64's kvm_regs, with the paths of its members, as `offsetof` takes them. */
function structureMembers(text) {
  const found = new Map()
  for (const match of text.matchAll(/\bstruct (kvm_\w+|user_pt_regs|user_fpsimd_state) \{/g)) {
    const start = match.index + match[0].length
    found.set(match[1], memberPaths(text.slice(start, closingBrace(text, start)), ""))
  }
  return found
}

/** Index of the brace that closes the one before `start`. */
function closingBrace(text, start) {
  let depth = 1
  let at = start
  for (; depth > 0; at += 1) {
    if (text[at] === "{") depth += 1
    if (text[at] === "}") depth -= 1
  }
  return at - 1
}

function memberPaths(body, prefix) {
  return declarations(body).flatMap(declaration => {
    const open = declaration.indexOf("{")
    if (open < 0) return plainNames(declaration).map(name => prefix + name)
    const close = closingBrace(declaration, open + 1)
    const inner = declaration.slice(open + 1, close)
    const names = plainNames(`x ${declaration.slice(close + 1)}`)
    if (names.length === 0) return memberPaths(inner, prefix)
    // Elements of an array of structures have no path of their own.
    if (declaration.slice(close).includes("[")) return names.map(name => prefix + name)
    return names.flatMap(name => [prefix + name, ...memberPaths(inner, `${prefix}${name}.`)])
  })
}

/** Splits at the semicolons that are not inside braces. */
function declarations(body) {
  const parts = [""]
  let depth = 0
  for (const character of body) {
    if (character === "{") depth += 1
    if (character === "}") depth -= 1
    if (character === ";" && depth === 0) parts.push("")
    else parts[parts.length - 1] += character
  }
  return parts.map(part => part.trim()).filter(part => part !== "")
}

/** Names that `TYPE a, b[4]` declares; bit fields have no offset. */
function plainNames(declaration) {
  return declaration
    .replace(/\[[^\]]*\]/g, "")
    .split(",")
    .flatMap((part, index) => {
      const words = part.trim().split(/[\s*]+/)
      const name = words.at(-1)
      const named = index > 0 || words.length > 1
      return !named || !name || part.includes(":") || name.startsWith("__empty") ? [] : [name]
    })
}
