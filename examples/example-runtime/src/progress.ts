/** Work that takes less is not worth a spinner. */
const QUIET_MS = 300

/** Shows on a terminal that something takes its time; elsewhere it shows nothing. */
export function startProgress(text: string): { stop(): void } {
  if (!process.stderr.isTTY) return { stop: () => undefined }
  let stopped = false
  let spinner: { stop(): unknown } | undefined
  const timer = setTimeout(async () => {
    const { default: ora } = await import("ora")
    if (!stopped) spinner = ora({ text, stream: process.stderr, discardStdin: false }).start()
  }, QUIET_MS)
  return {
    stop() {
      stopped = true
      clearTimeout(timer)
      spinner?.stop()
    },
  }
}
