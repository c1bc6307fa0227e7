import { describe, expect, test } from "vitest"
import { arm64CoreReg, arm64SysReg, KVM_REG_ARM_PTIMER_CTL, KVM_REG_ARM_TIMER_CVAL } from "./arm64.js"

describe("ids of arm64 core registers", () => {
  // Documentation/virt/kvm/api.rst, 4.68: arm64 core registers.
  test.each([
    ["x0", 0x6030_0000_0010_0000n],
    ["x1", 0x6030_0000_0010_0002n],
    ["x30", 0x6030_0000_0010_003cn],
    ["sp", 0x6030_0000_0010_003en],
    ["pc", 0x6030_0000_0010_0040n],
    ["pstate", 0x6030_0000_0010_0042n],
    ["sp_el1", 0x6030_0000_0010_0044n],
    ["elr_el1", 0x6030_0000_0010_0046n],
    ["spsr", 0x6030_0000_0010_0048n],
    ["v0", 0x6040_0000_0010_0054n],
    ["v31", 0x6040_0000_0010_00d0n],
    ["fpsr", 0x6020_0000_0010_00d4n],
    ["fpcr", 0x6020_0000_0010_00d5n],
  ] as const)("%s", (name, id) => {
    expect(arm64CoreReg(name)).toBe(id)
  })

  test.each(["x31", "v32", "x01", "w0", "toString"])("there is no %s", name => {
    expect(() => arm64CoreReg(name as "pc")).toThrow(`no core register ${name}`)
  })
})

describe("ids of arm64 system registers", () => {
  test("are what the headers have for the timers", () => {
    expect(arm64SysReg({ op0: 3, op1: 3, crn: 14, crm: 2, op2: 1 })).toBe(KVM_REG_ARM_PTIMER_CTL)
    expect(arm64SysReg({ op0: 3, op1: 3, crn: 14, crm: 0, op2: 2 })).toBe(KVM_REG_ARM_TIMER_CVAL)
  })

  test("refuse a field that is too large", () => {
    expect(() => arm64SysReg({ op0: 4, op1: 0, crn: 0, crm: 0, op2: 0 })).toThrow(/op0/)
  })
})
