import { Skip } from "../harness.mjs"

/** @throws Skip where this machine's KVM does not run stock kernels */
export async function requireKvm() {
  const { probeKvm } = await import("../../packages/runtime/dist/index.js")
  const { usable, reason } = await probeKvm()
  if (!usable) throw new Skip(`${reason}; in the KVM test host: npm run kvm-host -- npm run bench -- kvm`)
}
