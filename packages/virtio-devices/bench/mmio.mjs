// Prints what one access to a virtio-mmio register costs on this side of the exit. Needs a built package: pnpm build.
import { benchMmio } from "../dist/testing/index.js"

const { nsPerRead, nsPerWrite, nsPerNotify, rounds } = benchMmio()
const row = Object.entries({ read: nsPerRead, write: nsPerWrite, notify: nsPerNotify })
console.log(`${row.map(([what, ns]) => `${ns.toFixed(1)} ns per ${what}`).join(", ")} (medians of ${rounds})`)
