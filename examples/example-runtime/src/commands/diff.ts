import { diffSandbox, escapeControls } from "@ts-vmm/runtime"

const LETTERS = { added: "A", changed: "C", deleted: "D" } as const

/** `diff` */
export async function diff(sandbox: string, options: { json?: boolean }): Promise<void> {
  const changes = await diffSandbox(sandbox)
  if (options.json) console.log(JSON.stringify(changes))
  // Names come from the container, and must not steer the terminal.
  else
    for (const { kind, path } of changes)
      console.log(`${LETTERS[kind]} ${escapeControls(path).replaceAll("\n", "\\x0a")}`)
}
