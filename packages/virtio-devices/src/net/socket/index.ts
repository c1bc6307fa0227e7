/**
 * A network card's cable over the fd of a stream socket, as passt has it.
 *
 * @packageDocumentation
 */
export { SocketPort } from "./socket-port.js"
