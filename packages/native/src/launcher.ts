import { builtFile } from "./built-file.js"

/**
 * Path of the static program `tsvmm-launch`, which starts a program so that nothing of it outlives the caller.
 *
 * `tsvmm-launch [--chdir DIR] -- PROGRAM ARGS...`
 *
 * - fd 3 is a pipe or socket whose other end the caller holds. When it reaches its end (the caller closed it or
 *   died, even by SIGKILL) every descendant of PROGRAM is killed, daemons included, and the launcher
 *   ends with code 137.
 * - PROGRAM gets stdin, stdout and stderr and no other fd; no new privileges, no core dumps, signals at their
 *   defaults, a session and process group of its own. PROGRAM is found through PATH.
 * - When PROGRAM ends, its leftovers are killed and the launcher ends with the same code, or 128 + n for signal n.
 * - 125: wrong usage, no fd 3, or a kernel without what it needs (Linux 5.11, `CONFIG_PROC_CHILDREN`); 126: PROGRAM
 *   cannot be executed; 127: PROGRAM not found. stderr says why.
 *
 * @example
 * ```ts
 * const child = spawn(launcherPath(), ["--", "sleep", "1000"], { stdio: ["ignore", "inherit", "inherit", "pipe"] })
 * child.stdio[3]?.destroy()                // ends it
 * ```
 */
export function launcherPath(): string {
  return builtFile("tsvmm-launch")
}
