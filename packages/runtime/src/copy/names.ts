import { escapeControls } from "../console-log.js"

const SHOWN = 256

/** The name that a path ends in; `""` for the root and what ends in `..`, which have none of their own. */
export function ownName(path: string): string {
  const name = path
    .split("/")
    .filter(part => part !== "" && part !== ".")
    .at(-1)
  return name === undefined || name === ".." ? "" : name
}

/** Whether a path means what is in a folder and not the folder: `folder/.` */
export function meansContents(path: string): boolean {
  return /(^|\/)\.$/.test(path)
}

/** A name of a tar stream (latin1 text) as a message shows it: short, and without anything that steers a terminal. */
export function shown(path: string): string {
  const text = Buffer.from(path, "latin1").toString("utf8")
  const short = text.length > SHOWN ? `${text.slice(0, SHOWN)}...` : text
  return `"${escapeControls(short).replaceAll("\n", "\\x0a").replaceAll("\t", "\\x09")}"`
}
