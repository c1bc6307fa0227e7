// K8: a KVM node that is there says nothing. What a guest's code did decides, and where it does not do, it is said why.
import { beforeEach, describe, expect, test, vi } from "vitest"
import { SandboxError } from "../errors.js"
import { chooseHypervisor } from "./choose.js"
import { probeKvm } from "./kvm/probe.js"

const host = vi.hoisted(() => ({ hasNode: true, guestCode: (): number => 0 }))
vi.mock("node:fs", async original => {
  const fs = await original<typeof import("node:fs")>()
  return { ...fs, existsSync: (path: string) => (path === "/dev/kvm" ? host.hasNode : fs.existsSync(path)) }
})
vi.mock("./kvm/guest-speed.js", () => ({ guestInstructionsPerSecond: () => host.guestCode() }))

const wanted = (hypervisor: "auto" | "kvm" | "uml", kernel?: string) =>
  ({ hypervisor, umlMode: "ptrace", kernel }) as const
const refusal = (hypervisor: "kvm", kernel?: string) =>
  chooseHypervisor(wanted(hypervisor, kernel)).then(
    () => undefined,
    (error: SandboxError) => error,
  )

beforeEach(() => {
  host.hasNode = true
})

describe.each<{ what: string; hasNode?: boolean; guestCode: () => number; reason: RegExp; present: boolean }>(
  [
    {
      what: "that is not there",
      hasNode: false,
      guestCode: () => Number.POSITIVE_INFINITY,
      reason: /there is no \/dev\/kvm/,
      present: false,
    },
    {
      what: "that this user may not open",
      guestCode: () => fail("cannot open /dev/kvm: EACCES"),
      reason: /EACCES/,
      present: false,
    },
    {
      what: "that another hypervisor has",
      guestCode: () => fail("KVM_CREATE_VM failed with EBUSY"),
      reason: /EBUSY/,
      present: false,
    },
    {
      what: "that makes a machine and cannot run it",
      guestCode: () => fail("KVM_RUN failed with EINVAL"),
      reason: /KVM_RUN/,
      present: false,
    },
    {
      what: "that interprets guests",
      guestCode: () => 2_000_000,
      reason: /interprets guest code at about 2 million instructions per second/,
      present: true,
    },
  ],
)("K8: a KVM node $what", ({ hasNode = true, guestCode, reason, present }) => {
  beforeEach(() => {
    host.hasNode = hasNode
    host.guestCode = guestCode
  })

  test("is found out, with the reason, and uml is taken", async () => {
    expect(await probeKvm()).toMatchObject({ present, usable: false, reason: expect.stringMatching(reason) })
    expect((await chooseHypervisor(wanted("auto"))).name).toBe("uml")
  })

  test("is refused with that reason when it is asked for", async () => {
    const error = await refusal("kvm")
    expect(error).toMatchObject({ code: "hypervisor-unavailable", message: expect.stringMatching(reason) })
    expect(error).toBeInstanceOf(SandboxError)
  })

  test("is tried with a kernel that somebody names, if guest code ran at all", async () => {
    if (present) expect((await chooseHypervisor(wanted("kvm", "/vmlinux"))).name).toBe("kvm")
    else expect(await refusal("kvm", "/vmlinux")).toMatchObject({ code: "hypervisor-unavailable" })
  })
})

test("K8: a KVM that runs guests on the processor is taken, unless uml is asked for", async () => {
  host.guestCode = () => 500_000_000
  expect((await chooseHypervisor(wanted("auto"))).name).toBe("kvm")
  expect((await chooseHypervisor(wanted("uml"))).name).toBe("uml")
})

function fail(message: string): never {
  throw new Error(message)
}
