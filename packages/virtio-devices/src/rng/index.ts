export { MAX_REQUEST_SIZE, RNG_QUEUE, RngDevice, type RngOptions } from "./device.js"
