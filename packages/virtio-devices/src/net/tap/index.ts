/**
 * Tap devices of Linux as the other end of a network device's cable.
 *
 * @packageDocumentation
 */
export { TapError, type TapErrorCode } from "./errors.js"
export { openTap, type Tap, type TapOptions } from "./open-tap.js"
export { TapPort, type TapPortOptions, tapPort } from "./tap-port.js"
