import { ACPI_END } from "@ts-vmm/linux-loader"
import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { expect, test } from "vitest"
import { I8042 } from "../../superio/index.js"
import { RESET_VECTOR_START, writeResetVector } from "./reset-vector.js"

/** Runs the few instructions that may stand at the reset vector; returns where the CPU halts. */
function execute(code: Uint8Array, out: (port: number, value: number) => void): number {
  for (let ip = 0, al = 0, steps = 0; steps < 16; steps++) {
    const [opcode, operand] = [code[ip]!, code[ip + 1]!]
    if (opcode === 0xf4) return ip
    if (opcode === 0xb0) al = operand
    else if (opcode === 0xe6) out(operand, al)
    else throw new Error(`opcode 0x${opcode.toString(16)}`)
    ip += 2
  }
  throw new Error("does not halt")
}

test("a jump to the reset vector resets the machine, then halts for good", () => {
  let resets = 0
  const controller = new I8042({
    onReset: () => {
      resets++
    },
  })
  const memory = arrayBufferMemory([{ start: 0, size: 2 ** 20 }])
  writeResetVector(memory)
  const code = memory.slices(RESET_VECTOR_START, ACPI_END - RESET_VECTOR_START)[0]!
  const halt = execute(code, (port, value) => controller.write(port - 0x60, Uint8Array.of(value)))
  expect(resets).toBe(1)
  expect([...code.subarray(halt, halt + 3)]).toEqual([0xf4, 0xeb, 0x100 - 3]) // jumps back to the halt
})

test("the reset vector is where a CPU in real mode starts, below what ACPI tables may not exceed", () => {
  expect(RESET_VECTOR_START).toBe((0xf000 << 4) + 0xfff0)
  expect(RESET_VECTOR_START).toBeLessThan(ACPI_END)
})
