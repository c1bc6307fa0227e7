import { expect, test } from "vitest"
import { busyboxImage, layeredImage, pythonImage } from "../fixtures/images.js"
import { ordinaryUser } from "../fixtures/ordinary-user.js"

/** The tests that must also hold for somebody without any right on this machine. */
const FILES = ["run", "sandbox", "endings", "tty", "run-code", "agent", "devices", "copy-in", "copy-out"].map(
  name => `test/e2e/${name}.test.ts`,
)

// Their images are made by whoever may install what making them needs.
for (const make of [busyboxImage, layeredImage, pythonImage]) make()

test.skipIf(process.getuid?.() !== 0)(
  "the end-to-end tests hold as an ordinary user, without root, KVM or a daemon (skipped for whoever is one already)",
  async () => {
    using user = ordinaryUser()
    const vitest = `${user.root}/node_modules/vitest/vitest.mjs`
    const args = [
      vitest,
      "run",
      "--root",
      user.root,
      "--project",
      "uml",
      "--configLoader",
      "runner",
      "--reporter",
      "dot",
      ...FILES,
    ]
    const env = { TS_VMM_TEST_IMAGE_DIR: `${user.home}/images`, CI: "true", NO_COLOR: "1" }
    const result = await user.run(user.node, args, { env })
    expect(result.stdout + result.stderr).toMatch(new RegExp(`Test Files\\s+${FILES.length} passed`))
    expect(result.code).toBe(0)
  },
  // A minute and a half, on a machine that has nothing else to do.
  1_800_000,
)
