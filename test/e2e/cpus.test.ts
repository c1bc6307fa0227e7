// Virtual CPUs that come to a running sandbox, and go.
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { HYPERVISOR, underTest } from "./under-test.js"

const place = new Workplace()
const paths = { stateDir: place.stateDir, imageDir: TEST_IMAGE_DIR }
const image = `oci:${busyboxImage()}`
afterAll(() => place.remove())

const create = (cpus: number, cpusMax?: number) =>
  Sandbox.create({ image, paths, ...underTest, name: "cpus", cpus, ...(cpusMax ? { cpusMax } : {}) })

test.runIf(HYPERVISOR === "uml")("User Mode Linux has one, and no more can come", async () => {
  await expect(create(1, 2)).rejects.toMatchObject({
    code: "invalid-argument",
    message: "the uml hypervisor runs one virtual CPU, not 2",
  })
  await using sandbox = await create(1)
  expect(sandbox.cpus).toMatchObject({ online: 1, max: 1 })
  await sandbox.cpus.setOnline(1)
  await expect(sandbox.cpus.setOnline(2)).rejects.toMatchObject({ code: "invalid-argument" })
})

test.runIf(HYPERVISOR === "kvm")("a guest works with as many as it is told to, up to the most", async () => {
  await using sandbox = await create(1, 3)
  const seen = async () => Number((await sandbox.exec("nproc", [], { check: true })).stdout)
  expect(await seen()).toBe(1)
  const begun = performance.now()
  await sandbox.cpus.setOnline(3)
  console.log(`two CPUs more after ${Math.round(performance.now() - begun)} ms`)
  expect(await seen()).toBe(3)
  // One for each, and all of them end.
  const { stdout } = await sandbox.shell(
    "for cpu in 0 1 2; do (taskset -c $cpu sh -c 'i=0; while [ $i -lt 500 ]; do i=$((i+1)); done; echo done') & done; wait",
    { check: true },
  )
  expect(stdout).toBe("done\n".repeat(3))
  const asked = await place.run(["cpus", "cpus", "--online", "2", "--json"])
  expect(JSON.parse(String(asked.stdout))).toEqual({ online: 2, max: 3 })
  expect([await seen(), sandbox.cpus.online]).toEqual([2, 2])
  const refused = await place.run(["cpus", "cpus", "--online", "4"])
  expect(refused.exitCode).toBe(125)
  expect(refused.stderr).toMatch(/from 1 to 3, not 4/)
})

test.runIf(HYPERVISOR === "kvm")("a program goes on when its CPU is taken away", async () => {
  await using sandbox = await create(2, 2)
  // It works until the CPU is gone, and then goes on for a while.
  const script = `taskset -c 1 sh -c 'echo up; while grep -q "^processor.* 1$" /proc/cpuinfo; do :; done
    i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo end'`
  const program = await sandbox.spawn("sh", ["-c", script])
  let said = ""
  for await (const event of program) {
    if (event.kind === "stdout") said += event.data.toString()
    if (event.kind === "stdout" && said === "up\n") await sandbox.cpus.setOnline(1)
  }
  expect(said).toBe("up\nend\n")
  expect((await sandbox.exec("nproc", [])).stdout).toBe("1\n")
})
