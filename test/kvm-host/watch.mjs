import { performance } from "node:perf_hooks"

/**
 * A test and the hooks around it have ten minutes each (vitest.config.ts), and each test is told as it ends: after so
 * long without a word it is the host, or the process that runs the tests, that stands still.
 */
const SILENCE_MS = 15 * 60_000
const ANSWER_MS = 60_000
/** Every thread in the host that belongs to a program, with the system call that it stands in. */
const LIST_THREADS = `
for program in /proc/[0-9]*; do
  arguments=$(tr '\\0' ' ' < $program/cmdline 2>/dev/null | cut -c1-100)
  [ -n "$arguments" ] || continue
  echo "\${program#/proc/} $arguments"
  for thread in $program/task/*; do
    echo "  $(cat $thread/comm) $(cut -d' ' -f3,14,15 $thread/stat) $(cat $thread/wchan) $(cut -d' ' -f1 $thread/syscall)"
  done
done 2>/dev/null`

const after = ms => new Promise(resolve => setTimeout(resolve, ms).unref())

/** What runs in a host, or that it answers no longer. */
async function threadsOf(host) {
  const parts = []
  const listing = host.run(["sh", "-c", LIST_THREADS], { onOutput: (_, bytes) => parts.push(bytes) })
  const answered = await Promise.race([listing.exited.catch(() => undefined), after(ANSWER_MS)])
  return answered ? Buffer.concat(parts).toString() : "  the host answers no longer"
}

/**
 * Runs a command in a KVM test host, and gives it up when it says nothing for long.
 * @param {{ run: Function, console: () => string[] }} host
 * @param {string[]} argv
 * @param {{ cwd?: string, env?: Record<string, string>, onOutput: (name: string, bytes: Buffer) => void }} options
 * @param {number} [silenceMs]
 * @returns {Promise<{ code: number | null, signal: string | null }>}
 * @throws Error with the host's programs and console, when it was given up
 */
export async function runWatched(host, argv, options, silenceMs = SILENCE_MS) {
  let heard = performance.now()
  const onOutput = (name, bytes) => {
    heard = performance.now()
    options.onOutput(name, bytes)
  }
  const run = host.run(argv, { ...options, onOutput })
  let timer
  const silence = new Promise(resolve => {
    timer = setInterval(() => performance.now() - heard > silenceMs && resolve("silence"), silenceMs / 10)
  })
  try {
    const end = await Promise.race([run.exited, silence])
    if (end !== "silence") return end
    run.exited.catch(() => undefined) // the host is stopped with it
    const programs = await threadsOf(host)
    throw new Error(
      `the KVM test host said nothing for ${Math.round(silenceMs / 1000)} s. Its programs:\n${programs}\nIts console:\n${host.console().join("\n")}`,
    )
  } finally {
    clearInterval(timer)
  }
}
