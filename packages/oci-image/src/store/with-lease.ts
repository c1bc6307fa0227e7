import type { StoreContext } from "./context.js"

/** Does something during which nothing is collected. @throws the signal's reason, while a collection is waited for */
export async function withLease<T>(
  { leases }: StoreContext,
  work: () => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const lease = await leases.load(signal)
  try {
    return await work()
  } finally {
    await lease[Symbol.asyncDispose]()
  }
}
