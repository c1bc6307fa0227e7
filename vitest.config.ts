import { defineConfig } from "vitest/config"

/** Tests read sources, not builds: the same condition that typecheck uses. */
const conditions = ["@ts-vmm/source"]
const shared = { resolve: { conditions }, ssr: { resolve: { conditions } } }

export default defineConfig({
  ...shared,
  test: {
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
          ],
        },
      },
      { ...shared, test: { name: "fuzz", include: ["test/fuzz/**/*.test.ts"], testTimeout: 180_000 } },
      {
        ...shared,
        test: { name: "uml", include: ["test/e2e/**/*.test.ts"], testTimeout: 120_000, hookTimeout: 300_000 },
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
