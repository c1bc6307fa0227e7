import { readFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import type { Options } from "tsup"

type Plugin = NonNullable<Options["esbuildPlugins"]>[number]

const OUR_SOURCE = /\/(?:packages\/[^/]+|examples\/example-runtime)\/src\/.*\.ts$/
const IMPORT = /^import \{([^}]*)\} from "(@ts-vmm\/[^"]+)"$/gm
const EXPORT = /^export \{([^}]*)\} from "(\.[^"]+)"$/gm

/**
 * Takes what is imported of our packages from the files that have it. esbuild puts all that a package's index names into
 * one chunk as soon as some command needs it, and every command that wants one function of it would load the rest.
 */
export const directImports: Plugin = {
  name: "direct-imports",
  setup(build) {
    const homes = new Map<string, Promise<Homes>>()
    const homesIn = async (specifier: string, resolveDir: string): Promise<Homes> => {
      const { path } = await build.resolve(specifier, { kind: "import-statement", resolveDir })
      const known = homes.get(path) ?? readHomes(path)
      homes.set(path, known)
      return known
    }
    build.onLoad({ filter: OUR_SOURCE }, async ({ path }) => {
      const text = await readFile(path, "utf8")
      const indexes = new Map<string, Homes>()
      for (const [, , specifier = ""] of text.matchAll(IMPORT))
        indexes.set(specifier, await homesIn(specifier, dirname(path)))
      const contents = text.replace(IMPORT, (whole, names: string, specifier: string) =>
        importsOf(whole, names, specifier, indexes.get(specifier) as Homes),
      )
      return { contents, loader: "ts" }
    })
  },
}

/** By name: the file that has it. */
type Homes = ReadonlyMap<string, string>

/** What an index hands on by name; what it hands on whole is not looked into. */
async function readHomes(index: string): Promise<Homes> {
  const text = await readFile(index, "utf8")
  return new Map(
    [...text.matchAll(EXPORT)].flatMap(([, names = "", from = ""]) =>
      listed(names).map((name): [string, string] => [
        name,
        join(dirname(index), from.replace(/\.js$/, ".ts")),
      ]),
    ),
  )
}

/** As many imports as there are files, on one line, so that lines keep their numbers. */
function importsOf(whole: string, names: string, specifier: string, homes: Homes): string {
  const imports = listed(names).map(name => {
    const [exported = ""] = name.split(" as ")
    return `import { ${name} } from ${JSON.stringify(homes.get(exported) ?? specifier)}`
  })
  const lines = whole.split("\n").length - 1
  return imports.join("; ") + "\n".repeat(lines)
}

/** Names of a list in braces, those of types aside. */
function listed(names: string): string[] {
  return names
    .split(",")
    .map(name => name.trim())
    .filter(name => name !== "" && !name.startsWith("type "))
}
