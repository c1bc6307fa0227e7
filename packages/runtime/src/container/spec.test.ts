import { describe, expect, test } from "vitest"
import { containerFor, processFor, resolveCommand } from "./spec.js"

const image = {
  env: ["A=image", "B=image"],
  entrypoint: ["/entry"],
  cmd: ["cmd"],
  workingDir: "/srv",
  user: "web",
}
const empty = { env: [], entrypoint: [], cmd: [], workingDir: "", user: "" }

describe("the command line is Docker's", () => {
  test.each([
    ["the image's", {}, ["/entry", "cmd"]],
    ["the caller's command after the image's entrypoint", { command: ["x", "y"] }, ["/entry", "x", "y"]],
    ["the caller's entrypoint drops the image's command", { entrypoint: ["/mine"] }, ["/mine"]],
    ["both are the caller's", { entrypoint: ["/mine"], command: ["x"] }, ["/mine", "x"]],
    ["an empty entrypoint means none", { entrypoint: [], command: ["x"] }, ["x"]],
  ])("%s", (_, options, expected) => {
    expect(resolveCommand(image, options)).toEqual(expected)
  })

  test("nothing to run is refused", () => {
    expect(() => resolveCommand(empty, {})).toThrowError(
      expect.objectContaining({ code: "invalid-argument" }),
    )
  })
})

describe("the process", () => {
  test("takes env, cwd and user from the image, and the caller's over them", () => {
    expect(processFor(image, ["x"], { env: { B: "mine", C: "1=2" } })).toMatchObject({
      Args: ["x"],
      Env: [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "A=image",
        "B=mine",
        "C=1=2",
      ],
      Cwd: "/srv",
      User: { Username: "web" },
    })
    expect(processFor(image, ["x"], { cwd: "/tmp", user: "1:2" })).toMatchObject({
      Cwd: "/tmp",
      User: { Username: "1:2" },
    })
  })

  test("has a terminal's TERM and size when it has one", () => {
    const spec = processFor(empty, ["x"], { tty: { columns: 100, rows: 30 } })
    expect(spec).toMatchObject({ Terminal: true, ConsoleSize: { Width: 100, Height: 30 } })
    expect(spec.Env).toContain("TERM=xterm")
    expect(processFor(empty, ["x"], {}).Env).not.toContain("TERM=xterm")
  })

  test.each([
    ["O8: a NUL in an argument", ["a\0b"], {}],
    ["O8: a NUL in a variable", ["x"], { env: { A: "\0" } }],
    ["O8: an empty name of a variable", ["x"], { env: { "": "v" } }],
    ["O8: 3 MiB of arguments", ["x".repeat(3 << 20)], {}],
    ["O8: 100,001 arguments", new Array(100_001).fill("x"), {}],
    ["a relative working directory", ["x"], { cwd: "tmp" }],
  ])("%s is refused", (_, command, options) => {
    expect(() => processFor(empty, command as string[], options)).toThrowError(
      expect.objectContaining({ code: "invalid-argument" }),
    )
  })

  test("a name like __proto__ is a variable like others", () => {
    const env = JSON.parse('{"__proto__":"x"}') as Record<string, string>
    expect(processFor(empty, ["x"], { env }).Env).toContain("__proto__=x")
  })
})

test("the container has Docker's capabilities, mounts and masks", () => {
  const spec = containerFor(empty, { command: ["x"], hostname: "h", readOnlyRoot: true, rootPath: "/r" })
  expect(spec.Process?.Capabilities?.Bounding).toContain("CAP_CHOWN")
  expect(spec.Process?.Capabilities?.Bounding).not.toContain("CAP_SYS_ADMIN")
  expect(spec.Mounts?.map(mount => mount.destination)).toEqual([
    "/proc",
    "/dev",
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/sys",
    "/sys/fs/cgroup",
  ])
  expect(spec.Linux?.MaskedPaths).toContain("/proc/kcore")
  expect(spec.Root).toEqual({ Path: "/r", Readonly: true })
})
