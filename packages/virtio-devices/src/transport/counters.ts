/**
 * What happened at one device's transport since it was made. Plain numbers, for metrics and tests; nothing
 * here is ever reset.
 */
export class TransportCounters {
  /** Queue notifications received. */
  notifications = 0
  /** Of those, for a queue that is not there or not ready, or a device that is not active. */
  notificationsIgnored = 0
  /** Used-buffer interrupts raised. */
  interrupts = 0
  /** Configuration interrupts raised. */
  configInterrupts = 0
  /** Times the device went to DEVICE_NEEDS_RESET because of the guest. */
  guestFaults = 0
  /** Times it went there because device code threw something else. */
  deviceErrors = 0
  /** Completions dropped because their queue or device had been reset. */
  lateCompletions = 0
  /** Status or set-up writes refused, and accesses to registers that are none. */
  refusals = 0
  /** Activations. */
  activations = 0
  /** Resets, of an active device or not. */
  resets = 0
}
