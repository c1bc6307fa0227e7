import { ECHO_PORT, serveEcho } from "./echo.js"

const socketPath = process.argv[2] ?? "vsock.sock"
const service = serveEcho(socketPath, console.log)
console.log(`echo service for guests on CID 2, port ${ECHO_PORT}; vhost-user socket: ${socketPath}`)
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => service[Symbol.dispose]())
