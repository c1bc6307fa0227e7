import { readdirSync, readFileSync } from "node:fs"
import { join, relative } from "node:path"
import ts from "typescript"
import { describe, expect, test } from "vitest"

const root = join(import.meta.dirname ?? ".", "..")

interface Example {
  readonly where: string
  readonly code: string
}

const examples = readdirSync(join(root, "packages")).flatMap(name => [
  ...sourceFiles(join(root, "packages", name, "src")).flatMap(docExamples),
  ...markdownExamples(join(root, "packages", name, "README.md")),
])

describe("examples in doc comments and READMEs", () => {
  test("there are some in every package", () => {
    const packages = new Set(examples.map(one => one.where.split("/")[1]))
    expect([...packages].sort()).toEqual(readdirSync(join(root, "packages")).sort())
  })

  test("parse as TypeScript", () => {
    const wrong = examples.flatMap(({ where, code }) => syntaxErrors(code).map(error => `${where}: ${error}`))
    expect(wrong).toEqual([])
  })

  // Every package's sources are transformed and loaded for it.
  test("import only what the packages export", { timeout: 120_000 }, async () => {
    const wrong: string[] = []
    for (const { where, code } of examples) {
      for (const { name, from } of valueImports(code)) {
        const module = (await import(from)) as Record<string, unknown>
        if (!(name in module)) wrong.push(`${where}: ${from} has no ${name}`)
      }
    }
    expect(wrong).toEqual([])
  })
})

function docExamples(path: string): Example[] {
  const text = readFileSync(path, "utf8")
  const comments = text.match(/\/\*\*[\s\S]*?\*\//g) ?? []
  return comments.flatMap(comment => {
    const plain = comment.replace(/^[ \t]*\* ?/gm, "")
    return blocks(plain).map(code => ({ where: relative(root, path), code }))
  })
}

function markdownExamples(path: string): Example[] {
  return blocks(readFileSync(path, "utf8")).map(code => ({ where: relative(root, path), code }))
}

function blocks(text: string): string[] {
  return [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map(match => match[1] as string)
}

function syntaxErrors(code: string): string[] {
  // In a function, as an example may wait without being a module.
  const imports = code.split("\n").filter(line => line.startsWith("import "))
  const rest = code.split("\n").filter(line => !line.startsWith("import "))
  const source = `${imports.join("\n")}\nexport async function example() {\n${rest.join("\n")}\n}`
  const { diagnostics } = ts.transpileModule(source, {
    reportDiagnostics: true,
    compilerOptions: { target: ts.ScriptTarget.ES2022 },
  })
  return (diagnostics ?? []).map(one => ts.flattenDiagnosticMessageText(one.messageText, " "))
}

function valueImports(code: string): { name: string; from: string }[] {
  return [...code.matchAll(/^import \{([^}]*)\} from "(@ts-vmm\/[^"]+)"/gm)].flatMap(([, names, from]) =>
    (names as string)
      .split(",")
      .map(name => name.trim())
      .filter(name => name !== "" && !name.startsWith("type "))
      .map(name => ({ name: name.split(" as ")[0] as string, from: from as string })),
  )
}

function sourceFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter(entry => entry.isFile() && entry.name.endsWith(".ts") && !entry.name.endsWith(".test.ts"))
    .map(entry => join(entry.parentPath, entry.name))
}
