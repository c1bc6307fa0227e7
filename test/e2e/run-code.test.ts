import { runPython } from "@ts-vmm/run-code"
import { afterAll, beforeAll, expect, test } from "vitest"
import { pythonImage } from "../fixtures/images.js"
import { Workplace } from "./cli.js"
import { underTest } from "./under-test.js"

const place = new Workplace()
const image = `oci:${pythonImage()}`

beforeAll(() => Object.assign(process.env, place.env))
afterAll(() => {
  for (const name of Object.keys(place.env)) delete process.env[name]
  expect(place.leftProcesses()).toEqual([])
  place.remove()
})

test("collects what the code prints, and its code", async () => {
  const result = await runPython(
    image,
    "import sys; print(sum(range(10))); print('bad', file=sys.stderr); sys.exit(4)",
    60_000,
    underTest,
  )
  expect(result).toMatchObject({ exitCode: 4, stdout: "45\n", stderr: "bad\n" })
})

test("code that never ends is ended", async () => {
  await expect(runPython(image, "while True: pass", 1_500, underTest)).rejects.toMatchObject({
    code: "timeout",
  })
})

test("code that eats all memory ends itself and nothing else", async () => {
  const result = await runPython(image, "x = bytearray(2 << 30)", 60_000, underTest)
  expect(result.exitCode).not.toBe(0)
})
