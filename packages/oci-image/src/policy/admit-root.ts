import { ImageError } from "../errors.js"
import { type Policy, ruleName } from "./policy.js"

/**
 * Asks a policy whether a root file system that is no image may run. No rule can be for what has no name and no digest:
 * the default decides, and a program that looks into images would be passed by.
 *
 * @param what - how messages call it
 * @throws ImageError `policy-denied`, `scan-refused`
 */
export function admitRoot(policy: Policy, what: string): void {
  const help = "make an image of it (image build-rootfs) and a rule for that, if it is to be trusted"
  if (policy.default === "deny")
    throw new ImageError(
      "policy-denied",
      `${what} is no image and is denied by ${ruleName(policy, undefined)}; ${help}`,
    )
  if (policy.scan) {
    const program = `the program of ${policy.file ?? "the policy"} that looks into images cannot look into it`
    throw new ImageError("scan-refused", `${what} is no image, and ${program}; ${help}`)
  }
}
