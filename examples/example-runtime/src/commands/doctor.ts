import { probeHypervisors } from "@ts-vmm/runtime"

/** `doctor`: 0 when a sandbox can run here, 1 when none can. */
export async function doctor(options: { json?: boolean }): Promise<number> {
  const probes = await probeHypervisors()
  if (options.json) console.log(JSON.stringify(probes))
  else
    for (const { hypervisor, usable, reason } of probes)
      console.log(`${hypervisor.padEnd(14)} ${usable ? "works" : "does not work"}: ${reason}`)
  return probes.some(one => one.usable) ? 0 : 1
}
