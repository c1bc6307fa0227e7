import { expect } from "vitest"
import { LoaderError, type LoaderErrorCode } from "../errors.js"

/** The `LoaderError` that `action` throws; fails when it throws none, or one with another code. */
export function refusedWith(code: LoaderErrorCode, action: () => unknown): LoaderError {
  let thrown: unknown
  try {
    action()
  } catch (error) {
    thrown = error
  }
  expect(thrown).toBeInstanceOf(LoaderError)
  expect((thrown as LoaderError).code).toBe(code)
  return thrown as LoaderError
}
