import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"
import { LongestFirst } from "./test/kvm-host/longest-first.js"

/** Tests read sources, not builds: the same condition that typecheck uses. */
const conditions = ["@ts-vmm/source"]
/** These need a KVM that runs stock kernels: the machine's own, or the test host's (test/kvm-host). */
const KVM_TESTS = ["packages/*/test/kvm/**/*.test.ts", "test/kvm/**/*.test.ts"]
const shared = { resolve: { conditions }, ssr: { resolve: { conditions } } }
/**
 * Tests in the KVM test host, whose processor is emulated, use what was built and share one process: transforming and
 * loading every source once a file would take longer than the tests.
 */
const built = {
  isolate: false,
  maxWorkers: availableParallelism(),
  server: { deps: { external: [/\/dist\//] } },
}

/** Real programs on KVM: many minutes where the processor is emulated, so only when asked for. */
const CLIENTS_ON_KVM = process.env["TS_VMM_CLIENTS_ON_KVM"] === "1"

const RUN_CODE = fileURLToPath(new URL("examples/run-code/src/run-code.ts", import.meta.url))

export default defineConfig({
  ...shared,
  test: {
    sequence: { sequencer: LongestFirst },
    // By default one processor is left alone: half of a machine that has two.
    maxWorkers: availableParallelism(),
    projects: [
      {
        ...shared,
        test: {
          name: "unit",
          include: [
            "packages/*/src/**/*.test.ts",
            "packages/*/test/**/*.test.ts",
            "examples/*/src/**/*.test.ts",
            "test/*.test.ts",
            "test/kvm-host/*.test.ts",
          ],
          exclude: KVM_TESTS,
          // Where the machine has much else to do, what takes a second takes many.
          testTimeout: 30_000,
          hookTimeout: 60_000,
        },
      },
      { ...shared, test: { name: "fuzz", include: ["test/fuzz/**/*.test.ts"], testTimeout: 180_000 } },
      {
        ...shared,
        test: { name: "uml", include: ["test/e2e/**/*.test.ts"], testTimeout: 300_000, hookTimeout: 600_000 },
      },
      { test: { ...built, name: "kvm", include: KVM_TESTS, testTimeout: 600_000, hookTimeout: 600_000 } },
      {
        // An example without a build of its own.
        resolve: { alias: { "@ts-vmm/run-code": RUN_CODE } },
        test: {
          ...built,
          name: "kvm-e2e",
          include: ["test/e2e/**/*.test.ts"],
          // The test host has no other users, no bridge, and no network interface that passt could use. What a balloon
          // gives back is read off the file that a guest's RAM is in: here it is in none, and test/kvm/sandbox-memory
          // looks at the mappings. Policies and images that arrive as they are read end before a hypervisor begins: there
          // they pass as well, but take minutes each where the processor is emulated.
          exclude: [
            ...[
              "ordinary-user",
              "network",
              "cni",
              "balloon",
              "memory",
              "policy",
              "lazy",
              "lazy-toc",
              "clients-network",
            ],
            ...(CLIENTS_ON_KVM ? [] : ["clients"]),
          ].map(name => `test/e2e/${name}.test.ts`),
          env: { TS_VMM_TEST_HYPERVISOR: "kvm" },
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
      {
        ...shared,
        test: {
          name: "interop",
          include: ["test/interop/**/*.test.ts"],
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
})
