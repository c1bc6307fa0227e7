import { ACPI_POWER_PORT, type MachineConfig, type MachineEnd, MicroVm } from "@ts-vmm/vmm"
import { type BareGuest, bareGuest } from "../fixtures/bare-guest/bare-guest.js"

/** Options of bare guests that make them power off by this machine's sleep control register: SLP_EN, type 5. */
export const POWER_OFF = `off-port=0x${ACPI_POWER_PORT.toString(16)} off-value=0x34`

/** A machine and what it has written to its serial port so far. */
export interface Watched {
  readonly machine: MicroVm
  text(): string
  /** Resolves when the console shows `wanted`; rejects when the machine ends first. */
  shows(wanted: string): Promise<void>
}

/** Makes and starts a machine, listening to its console. */
export async function startMachine(
  config: Omit<MachineConfig, "memoryMiB"> & { memoryMiB?: number },
): Promise<Watched> {
  const machine = await MicroVm.create({ memoryMiB: 64, ...config })
  let said = ""
  const waiting = new Set<() => void>()
  machine.on("console", bytes => {
    said = (said + Buffer.from(bytes).toString("latin1")).slice(-1_000_000)
    for (const look of waiting) look()
  })
  machine.start()
  const shows = (wanted: string) =>
    new Promise<void>((resolve, reject) => {
      const look = () => {
        if (!said.includes(wanted)) return
        waiting.delete(look)
        resolve()
      }
      waiting.add(look)
      look()
      machine.exited.then(({ description }) =>
        reject(new Error(`${description} before ${JSON.stringify(wanted)}: ${said.slice(-2000)}`)),
      )
    })
  return { machine, text: () => said, shows }
}

/** Starts a bare guest. */
export function startBare(name: BareGuest, config: Partial<MachineConfig> = {}): Promise<Watched> {
  return startMachine({ kernel: bareGuest(name), cmdline: POWER_OFF, ...config })
}

/** Runs a bare guest to its end. */
export async function runBare(
  name: BareGuest,
  config: Partial<MachineConfig> = {},
): Promise<{ end: MachineEnd; text: string }> {
  const { machine, text } = await startBare(name, config)
  const end = await machine.exited
  return { end, text: text() }
}
