/**
 * Does something that takes its time and leaves nothing behind when it is broken off: SIGINT and SIGTERM abort it.
 *
 * @param what - for the message: `the pull`
 */
export async function interruptible<T>(what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const abort = new AbortController()
  const stop = () => abort.abort(new InterruptedError(what))
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, stop)
  try {
    return await work(abort.signal)
  } finally {
    for (const signal of ["SIGINT", "SIGTERM"]) process.off(signal, stop)
  }
}

/** Carries a code, so that it is reported as a fact and not as a bug. */
class InterruptedError extends Error {
  readonly code = "aborted"

  constructor(what: string) {
    super(`${what} was interrupted`)
  }
}
