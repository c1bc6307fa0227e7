// What may name something. Each of these ends up in a path, an environment variable or the kernel.

/** Networks and containers (CNI 1.0.0, sections 1 and 2). A length of ours: names become file names. */
export function isName(text: unknown): text is string {
  return typeof text === "string" && /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/.test(text)
}

/** A program's file name: nothing that leads to another folder (CVE-2021-20206). */
export function isPluginName(text: unknown): text is string {
  return typeof text === "string" && /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$/.test(text) && !text.includes("..")
}

/** What Linux takes, less what is only good for surprises. */
export function isInterfaceName(text: unknown): text is string {
  return typeof text === "string" && /^[\w.-]{1,15}$/.test(text) && !/^\.{1,2}$/.test(text)
}

/** An absolute path without control characters; with `:` it could not stand in CNI_PATH. */
export function isFolder(text: unknown): text is string {
  return typeof text === "string" && /^\/[^\p{Cc}:]{0,1023}$/u.test(text)
}

/** Key or value of CNI_ARGS: `;` and `=` are its own. */
export function isArgument(text: unknown): text is string {
  return typeof text === "string" && /^[^\p{Cc};=]{0,1024}$/u.test(text)
}
