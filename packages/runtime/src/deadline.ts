import { abortedError, SandboxError } from "./errors.js"

/** How every method that waits can be ended early. Times are in milliseconds. */
export interface WaitOptions {
  readonly signal?: AbortSignal
  readonly timeoutMs?: number
}

/**
 * Waits for `work`, at most `timeoutMs`, and until `signal` aborts. The work itself goes on: whoever calls
 * this undoes what it began.
 *
 * @throws SandboxError `timeout` with `what` in its message, or `aborted`
 */
export async function withDeadline<T>(work: Promise<T>, what: string, options: WaitOptions = {}): Promise<T> {
  const { signal, timeoutMs } = options
  if (signal?.aborted) {
    work.catch(ignoreLateFailure)
    throw abortedError(signal)
  }
  if (!signal && timeoutMs === undefined) return work
  const ended = deferred<never>()
  const onAbort = () => ended.reject(abortedError(signal as AbortSignal))
  const onTimeout = () =>
    ended.reject(new SandboxError("timeout", `${what} took longer than ${timeoutMs} ms`))
  signal?.addEventListener("abort", onAbort, { once: true })
  const timer = timeoutMs === undefined ? undefined : setTimeout(onTimeout, timeoutMs)
  try {
    return await Promise.race([work, ended.promise])
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener("abort", onAbort)
    work.catch(ignoreLateFailure)
  }
}

/** A promise and the two functions that settle it (Promise.withResolvers is younger than Node 20). */
export interface Deferred<T> {
  readonly promise: Promise<T>
  resolve(value: T): void
  reject(error: unknown): void
}

/** Makes a {@link Deferred}. */
export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void
  let reject!: (error: unknown) => void
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve
    reject = onReject
  })
  return { promise, resolve, reject }
}

/** The deadline already told the caller how it ended; what the work says afterwards has no reader. */
function ignoreLateFailure(): undefined {
  return undefined
}

/** The part of larger options that says how long to wait. */
export function pickWait({ signal, timeoutMs }: WaitOptions): WaitOptions {
  return { ...(signal ? { signal } : {}), ...(timeoutMs === undefined ? {} : { timeoutMs }) }
}
