import { spawn } from "@lydell/node-pty"
import { afterAll, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { CLI, Workplace } from "./cli.js"
import { RUN_OPTIONS } from "./under-test.js"

const place = new Workplace()
const image = `oci:${busyboxImage()}`

afterAll(() => {
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

/** The command line on a terminal of its own, as a person uses it. */
function onTerminal(args: string[], size: { cols: number; rows: number }) {
  const [command = "", ...rest] = args
  const terminal = spawn(process.execPath, [CLI, command, ...RUN_OPTIONS, ...rest], {
    ...size,
    env: { ...process.env, ...place.env, TERM: "xterm" } as Record<string, string>,
  })
  let screen = ""
  const waiting: (() => void)[] = []
  terminal.onData(data => {
    screen += data
    for (const wake of waiting.splice(0)) wake()
  })
  const exit = new Promise<number>(resolve => terminal.onExit(event => resolve(event.exitCode)))
  const shows = async (pattern: RegExp) => {
    while (!pattern.test(screen)) await new Promise<void>(resolve => waiting.push(resolve))
  }
  return { terminal, exit, shows, screen: () => screen }
}

test("run -it gives a shell with the terminal's size, follows a resize, and ends with the shell's code", async () => {
  const { terminal, exit, shows } = onTerminal(["run", "-it", "--rm", image, "sh"], { cols: 91, rows: 27 })
  await shows(/# /)
  terminal.write("tty; stty size\r")
  await shows(/\/dev\/pts\/\d+\r+\n27 91\r+\n/)
  terminal.resize(120, 40)
  // The size travels by SIGWINCH, an RPC and an ioctl: ask until it is there.
  terminal.write("until stty size | grep '40 120'; do sleep 0.1; done\r")
  await shows(/40 120\r+\n/)
  terminal.write("exit 7\r")
  expect(await exit).toBe(7)
})

test("Ctrl-C interrupts the program in the container, not the command line", async () => {
  const { terminal, exit, shows } = onTerminal(["run", "-it", "--rm", image, "sh"], { cols: 80, rows: 24 })
  await shows(/# /)
  // What is typed is shown as well, and does not say that it runs.
  terminal.write("sh -c 'echo it ru''ns; exec sleep 1000'\r")
  await shows(/it runs\r+\n/)
  terminal.write("\u0003")
  await shows(/\^C[\s\S]*# /)
  terminal.write("echo code $?; exit 0\r")
  await shows(/code 130\r+\n/)
  expect(await exit).toBe(0)
})

test("a terminal that goes away ends the run and leaves nothing", async () => {
  const { terminal, exit, shows } = onTerminal(["run", "-it", "--rm", image, "sh"], { cols: 80, rows: 24 })
  await shows(/# /)
  terminal.write("sleep 1000\r")
  await shows(/sleep 1000\r+\n/)
  terminal.kill("SIGHUP")
  expect(await exit).toBe(137)
})
