import { ROOT } from "./paths.mjs"
import { manifestOf, workspaceFolders } from "./pnpm.mjs"
import { run } from "./run.mjs"
import { exists } from "./stamps.mjs"

const TSUP = `${ROOT}/node_modules/tsup/dist/cli-default.js`
/** A change in one of these means that everything is built again. */
const COMMON = [
  "tsup.preset.ts",
  "tsconfig.base.json",
  "tsconfig.build.json",
  "package.json",
  "pnpm-lock.yaml",
]

/**
 * @typedef {object} BuildStep
 * @property {string} name shown to the user and recorded
 * @property {string[]} inputs files and folders relative to the root
 * @property {string[]} facts text that the result depends on
 * @property {string[]} outputs files that must exist afterwards
 * @property {string[]} after names of steps that come first
 * @property {() => Promise<unknown>} work
 */

const script = path => () => run(process.execPath, [`${ROOT}/${path}`], { cwd: ROOT })

/** Steps that compile or unpack what is not TypeScript. */
function nativeSteps() {
  const guest = "packages/guest"
  return [
    {
      name: "native addon",
      inputs: [
        "packages/native/binding.gyp",
        "packages/native/src/cc",
        "packages/native/launcher",
        "packages/native/scripts",
        "packages/native/package.json",
      ],
      facts: [process.version, process.arch],
      outputs: ["tsvmm_native.node", "tsvmm-launch"].map(file => `packages/native/build/Release/${file}`),
      after: [],
      work: script("packages/native/scripts/build-addon.mjs"),
    },
    {
      name: "guest kernels",
      inputs: [`${guest}/prebuilt`, `${guest}/scripts/unpack-kernel.mjs`],
      facts: [],
      outputs: [`${guest}/build/kernels`],
      after: [],
      work: script(`${guest}/scripts/unpack-kernel.mjs`),
    },
    {
      name: "guest agent",
      inputs: [`${guest}/agent`, `${guest}/scripts/build-agent.mjs`],
      facts: [],
      outputs: [`${guest}/build/agent`],
      after: [],
      work: script(`${guest}/scripts/build-agent.mjs`),
    },
    {
      name: "guest initramfs",
      inputs: [
        ...["agent", "scripts"].map(folder => `${guest}/${folder}`),
        ...["initramfs", "agent-initramfs", "kernel-modules", "errors"].map(
          name => `${guest}/src/${name}.ts`,
        ),
      ],
      facts: [],
      outputs: [`${guest}/build/initramfs.cpio`],
      after: ["guest agent"],
      work: script(`${guest}/scripts/build-initramfs.mjs`),
    },
  ]
}

/** Folders of the workspace packages that a package stands on, directly or through others. */
function foldersBelow(manifest, found = new Set()) {
  const all = { ...manifest.dependencies, ...manifest.devDependencies }
  for (const name of Object.keys(all).filter(name => all[name].startsWith("workspace:"))) {
    const folder = `packages/${name.replace(/^.*\//, "")}`
    if (!found.has(folder)) foldersBelow(manifestOf(folder), found.add(folder))
  }
  return [...found]
}

function tsupStep(folder, { types }) {
  const manifest = manifestOf(folder)
  const isPackage = folder.startsWith("packages/")
  const output = isPackage ? `dist/index.${types ? "d.ts" : "js"}` : "dist"
  const sources = [`${folder}/src`, `${folder}/tsup.config.ts`, `${folder}/package.json`]
  const below = foldersBelow(manifest)
  return {
    name: `${types ? "types" : "build"} ${manifest.name}`,
    // Declarations and the examples' bundles are made from the sources of the packages below as well.
    inputs: [...COMMON, ...sources, ...(types || !isPackage ? below.map(lower => `${lower}/src`) : [])],
    facts: [process.version],
    outputs: [`${folder}/${output}`],
    after: below
      .map(lower => `build ${manifestOf(lower).name}`)
      .concat(types ? [`build ${manifest.name}`] : []),
    work: () =>
      run(process.execPath, [TSUP, ...(types ? ["--dts-only", "--no-clean"] : ["--no-dts"])], {
        cwd: `${ROOT}/${folder}`,
      }),
  }
}

/**
 * Every step of a build, each after those that it needs.
 * @param {{ types: boolean }} options types: declarations too (slow; publishing needs them, running does not)
 * @returns {BuildStep[]}
 */
export function buildPlan({ types }) {
  const built = workspaceFolders().filter(folder => exists(`${folder}/tsup.config.ts`))
  const published = built.filter(folder => folder.startsWith("packages/"))
  const steps = [
    ...nativeSteps(),
    ...built.map(folder => tsupStep(folder, { types: false })),
    ...(types ? published.map(folder => tsupStep(folder, { types: true })) : []),
  ]
  return inOrder(steps)
}

function inOrder(steps) {
  const byName = new Map(steps.map(step => [step.name, step]))
  const ordered = new Set()
  const visit = step => {
    if (ordered.has(step)) return
    for (const name of step.after) if (byName.has(name)) visit(byName.get(name))
    ordered.add(step)
  }
  for (const step of steps) visit(step)
  return [...ordered]
}
