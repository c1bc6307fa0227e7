import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"

/** Where a CPU in real mode starts after a reset: F000:FFF0. @see Intel SDM vol. 3, "First Instruction Executed" */
export const RESET_VECTOR_START: GuestAddress = 0xf_fff0

/** Pulls the i8042's reset line, then halts for good. */
const RESET_CODE = Uint8Array.of(
  ...[0xb0, 0xfe], // mov al, 0xfe
  ...[0xe6, 0x64], // out 0x64, al
  0xf4, // hlt
  ...[0xeb, 0xfd], // jmp to the hlt
)

/**
 * Writes the one piece of firmware that this machine has: code at the reset vector that resets the machine.
 *
 * A kernel that reboots "by BIOS" jumps there in real mode. Linux does so unasked where ACPI is
 * hardware-reduced and there is no EFI; without this the vCPU would run through empty memory for ever.
 *
 * @throws MemoryError `out-of-range` when there is no RAM below 1 MiB
 */
export function writeResetVector(memory: GuestMemory): void {
  memory.write(RESET_VECTOR_START, RESET_CODE)
}
