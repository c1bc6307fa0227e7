import packageFile from "../../package.json" with { type: "json" }

/** `version` */
export function version(options: { json?: boolean }): void {
  const versions = { "example-runtime": packageFile.version, node: process.versions.node }
  if (options.json) console.log(JSON.stringify(versions))
  else for (const [name, value] of Object.entries(versions)) console.log(`${name} ${value}`)
}
