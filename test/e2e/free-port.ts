import { randomInt } from "node:crypto"
import { createServer } from "node:net"

/** Below these the system takes ports for whoever wants any: one of ours could be taken before it is published. */
const PORTS = { first: 10_000, count: 20_000 }

/** A port of loopback that nobody has. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = PORTS.first + randomInt(PORTS.count)
    if (await isFree(port)) return port
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const probe = createServer()
    probe.once("error", () => resolve(false))
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)))
  })
}
