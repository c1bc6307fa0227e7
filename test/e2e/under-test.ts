import { type Hypervisor, KvmHypervisor, type SandboxOptions, UmlHypervisor } from "@ts-vmm/runtime"

/**
 * What the end-to-end tests run on, from the environment: everything by which one run of them differs from
 * another. Where nothing is said it is `uml`, with the kernel and the sizes that the tests ask for.
 */
const environment = {
  hypervisor: process.env["TS_VMM_TEST_HYPERVISOR"] ?? "uml",
  cpus: process.env["TS_VMM_TEST_CPUS"],
  memoryMiB: process.env["TS_VMM_TEST_MEMORY_MIB"],
  kernel: process.env["TS_VMM_TEST_KERNEL"],
  initramfs: process.env["TS_VMM_TEST_INITRAMFS"],
}

/** For a guest to start, and for its agent to answer, in seconds: ten or a hundred at once take their time where the processor is emulated. */
export const KVM_START_TIMEOUT = 240

/** The hypervisor under test. */
export const HYPERVISOR = environment.hypervisor as "uml" | "kvm"

/** For what comes soon on a machine that is not emulated, in milliseconds. */
export const PATIENCE_MS = HYPERVISOR === "kvm" ? 120_000 : 60_000

/** For a test that takes many seconds on a machine that has nothing else to do, in milliseconds. */
export const LONG_TEST_MS = HYPERVISOR === "kvm" ? 1_800_000 : 600_000

/** Options for `Sandbox.create`; they stand last, so that they win over the test's own. */
export const underTest: Partial<SandboxOptions> = {
  hypervisor: HYPERVISOR,
  ...(HYPERVISOR === "kvm" ? { timeoutMs: KVM_START_TIMEOUT * 1000 } : {}),
  ...(environment.cpus ? { cpus: Number(environment.cpus) } : {}),
  ...(environment.memoryMiB ? { memoryMiB: Number(environment.memoryMiB) } : {}),
  ...(environment.kernel ? { kernel: environment.kernel } : {}),
  ...(environment.initramfs ? { initramfs: environment.initramfs } : {}),
}

/** The same for `example-runtime run`; a test's own options stand after them. */
export const RUN_OPTIONS: readonly string[] = [
  ...["--hypervisor", HYPERVISOR],
  ...(HYPERVISOR === "kvm" ? ["--start-timeout", String(KVM_START_TIMEOUT)] : []),
  ...(environment.cpus ? ["--cpus", environment.cpus] : []),
  ...(environment.memoryMiB ? ["--memory", environment.memoryMiB] : []),
  ...(environment.kernel ? ["--kernel", environment.kernel] : []),
  ...(environment.initramfs ? ["--initramfs", environment.initramfs] : []),
]

/** How the hypervisor calls the end of a guest that powered off. */
export const POWERED_OFF = HYPERVISOR === "kvm" ? "the guest powered off" : "code 0"

/** The driver itself. */
export function hypervisorUnderTest(): Hypervisor {
  const kernel = environment.kernel ? { kernel: environment.kernel } : {}
  return HYPERVISOR === "kvm" ? new KvmHypervisor(kernel) : new UmlHypervisor(kernel)
}
