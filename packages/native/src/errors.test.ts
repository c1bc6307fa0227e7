import { constants } from "node:os"
import { expect, test } from "vitest"
import { errnoName, SysError } from "./errors.js"

test("an error carries errno, code and system call", () => {
  const error = new SysError(constants.errno.ENOENT, "openat", "the path is /x")

  expect(error).toBeInstanceOf(Error)
  expect(error).toMatchObject({ name: "SysError", errno: 2, code: "ENOENT", syscall: "openat" })
  expect(error.message).toBe("openat failed: no such file or directory (ENOENT), the path is /x")
})

test("errno names work for results of either sign, and for numbers that libuv does not know", () => {
  expect(errnoName(-11)).toBe("EAGAIN")
  expect(errnoName(95)).toBe("ENOTSUP")
  expect(errnoName(constants.errno.ESTALE)).toBe("ESTALE")
  expect(errnoName(4000)).toBe("E4000")
})
