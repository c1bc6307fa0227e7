import { readFileSync, writeFileSync } from "node:fs"

/**
 * An initramfs whose first program says a word and waits for ever.
 * @returns {{ path: string, word: string }}
 */
export async function writeWaitingInitramfs(folder) {
  const { writeInitramfs } = await import("../../packages/guest/dist/index.js")
  const word = "guest is idle"
  const init = `#!/bin/busybox sh\necho "${word}"\nexec /bin/busybox sleep 1000000\n`
  const path = `${folder}/waiting.cpio`
  writeFileSync(
    path,
    writeInitramfs([
      { type: "directory", path: "bin", mode: 0o755 },
      { type: "directory", path: "dev", mode: 0o755 },
      { type: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
      { type: "file", path: "bin/busybox", mode: 0o755, data: readFileSync("/bin/busybox") },
      { type: "file", path: "init", mode: 0o755, data: Buffer.from(init) },
    ]),
  )
  return { path, word }
}
