import { setTimeout as sleep } from "node:timers/promises"

/**
 * A test and the hooks around it have ten minutes each (vitest.config.ts), and each test is told as it ends: after so
 * long without a word it is the process that runs the tests that stands still.
 */
const SILENCE_MS = 15 * 60_000
/** The host's first process answers at once, whatever else runs there. */
const DEAF_MS = 5 * 60_000
const LISTING_MS = 60_000
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

/** The host's kernel, or its emulation, stands still: nothing that runs in it can be told from this. */
export class HostStandsStill extends Error {}

/**
 * Runs a command in a KVM test host, and gives it up when it says nothing for long, or the host does not.
 * @param {{ run: Function, ping: () => Promise<void>, console: () => string[] }} host
 * @param {string[]} argv
 * @param {{ cwd?: string, env?: Record<string, string>, onOutput: (name: string, bytes: Buffer) => void }} options
 * @param {{ silenceMs?: number, deafMs?: number }} [limits]
 * @returns {Promise<{ code: number | null, signal: string | null }>}
 * @throws HostStandsStill; Error with the host's programs, when only the command says nothing
 */
export async function runWatched(host, argv, options, { silenceMs = SILENCE_MS, deafMs = DEAF_MS } = {}) {
  const watch = new AbortController()
  let heard = performance.now()
  const onOutput = (name, bytes) => {
    heard = performance.now()
    options.onOutput(name, bytes)
  }
  const { exited } = host.run(argv, { ...options, onOutput })
  exited.catch(() => undefined) // whoever gives it up stops the host
  try {
    return await Promise.race([
      exited,
      untilDeaf(host, deafMs, watch.signal),
      untilSilent(host, () => performance.now() - heard, silenceMs, watch.signal),
    ])
  } finally {
    watch.abort()
  }
}

/** Rejects once the host has not answered for so long. */
async function untilDeaf(host, limitMs, signal) {
  while (!signal.aborted) {
    const deaf = sleep(limitMs, true, { signal }).catch(() => false)
    if (await Promise.race([host.ping(), deaf]))
      throw new HostStandsStill(`the KVM test host stands still. Its console:\n${host.console().join("\n")}`)
    await sleep(limitMs / 5, undefined, { signal }).catch(() => undefined)
  }
}

/** Rejects once the command has said nothing for so long. */
async function untilSilent(host, silentMs, limitMs, signal) {
  while (silentMs() < limitMs) {
    await sleep(limitMs / 10, undefined, { signal }).catch(() => undefined)
    if (signal.aborted) return
  }
  const lines = [
    `nothing was heard of the tests in the KVM test host for ${Math.round(limitMs / 1000)} s. Its programs:`,
    await threadsOf(host),
    "Its console:",
    ...host.console(),
  ]
  throw new Error(lines.join("\n"))
}

async function threadsOf(host) {
  const parts = []
  const listing = host.run(["sh", "-c", LIST_THREADS], { onOutput: (_, bytes) => parts.push(bytes) })
  await Promise.race([listing.exited.catch(() => undefined), sleep(LISTING_MS, undefined, { ref: false })])
  return Buffer.concat(parts).toString()
}
