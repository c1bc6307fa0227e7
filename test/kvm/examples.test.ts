import { execFileSync, spawn } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { guestArtifacts } from "@ts-vmm/guest/artifacts"
import { afterAll, beforeAll, expect, test } from "vitest"
import { makeInitramfs, stockKernel } from "../fixtures/stock-kernel.js"

const VSOCK_PIPE = fileURLToPath(new URL("../interop/guest/vsock_pipe.c", import.meta.url))
const example = (name: string) =>
  fileURLToPath(new URL(`../../examples/${name}/dist/main.js`, import.meta.url))

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "examples-"))
})
afterAll(() => rmSync(folder, { recursive: true }))

/** Runs an example to its end. */
function run(
  name: string,
  args: string[] = [],
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [example(name), ...args], { stdio: ["pipe", "pipe", "pipe"] })
  let stdout = ""
  let stderr = ""
  child.stdout.on("data", chunk => {
    stdout += chunk
  })
  child.stderr.on("data", chunk => {
    stderr += chunk
  })
  return new Promise(resolve => child.on("close", code => resolve({ code, stdout, stderr })))
}

const vmlinux = () => guestArtifacts().kernel("linux-kvm-x86_64")

test("hello-kvm says hello", async () => {
  expect(await run("hello-kvm")).toEqual({ code: 0, stdout: "Hello, KVM!\n", stderr: "" })
})

test("serial-console boots a kernel to its console, and a reboot ends it", async () => {
  const initramfs = makeInitramfs({
    folder: join(folder, "serial"),
    kernel: stockKernel(),
    modules: [],
    script: "echo this is a serial console; reboot -f",
  })
  const { code, stdout } = await run("serial-console", [vmlinux(), initramfs])
  expect(stdout).toContain("Linux version 7.2")
  expect(stdout).toContain("this is a serial console")
  expect(code).toBe(0)
})

test("custom-vmm: a disk, vsock, two processors", async () => {
  const pipe = join(folder, "vsock_pipe")
  execFileSync("gcc", ["-static", "-O1", "-o", pipe, VSOCK_PIPE])
  const disk = join(folder, "disk")
  writeFileSync(disk, Buffer.alloc(1 << 20, "block "))
  const initramfs = makeInitramfs({
    folder: join(folder, "custom"),
    kernel: stockKernel(),
    modules: [],
    programs: { vsock_pipe: pipe },
    script: `
      echo "cpus: $(nproc)"
      echo "disk: $(head -c 17 /dev/vda)"
      echo "vsock: $(echo hello | vsock_pipe connect 2 5000)"`,
  })
  const { code, stdout, stderr } = await run("custom-vmm", [vmlinux(), initramfs, disk])
  expect(stdout.replaceAll("\r", "")).toContain("cpus: 2\ndisk: block block block\nvsock: HELLO\n")
  expect(stderr).toBe("the machine ended: the guest powered off\n")
  expect(code).toBe(0)
})
