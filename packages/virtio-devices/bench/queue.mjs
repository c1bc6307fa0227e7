// Prints what one 3-descriptor chain costs in the split ring. Needs a built package: pnpm build.
import { benchQueue } from "../dist/testing/index.js"

const { nsPerChain, bestNsPerChain, rounds } = benchQueue()
console.log(`${nsPerChain.toFixed(1)} ns per chain (median of ${rounds}; best ${bestNsPerChain.toFixed(1)})`)
