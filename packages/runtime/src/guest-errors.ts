import { GuestError } from "@ts-vmm/guest/artifacts"
import { SandboxError, type SandboxErrorCode } from "./errors.js"

/** What each way in which a call to the agent fails means for a sandbox's user. */
const MEANING: Readonly<Record<GuestError["code"], SandboxErrorCode>> = {
  timeout: "timeout",
  aborted: "aborted",
  closed: "guest-died",
  protocol: "agent-failed",
  "frame-too-large": "invalid-argument",
  "bad-reply": "agent-failed",
  rpc: "agent-failed",
  "exec-not-found": "command-not-found",
  "exec-not-executable": "command-not-executable",
  "artifact-missing": "hypervisor-unavailable",
  "invalid-argument": "invalid-argument",
}

/** Turns an error of the guest package into one of ours; others pass. */
export function fromGuestError(error: unknown): unknown {
  if (!(error instanceof GuestError)) return error
  return new SandboxError(MEANING[error.code], error.message, { cause: error })
}
