// An owner that is killed while it adds `web` to a network of one plugin.
import { Cni, parseNetwork } from "../../dist/index.js"

const [stateDir, pluginDir, launcher] = process.argv.slice(2)
const network = parseNetwork(
  JSON.stringify({ cniVersion: "1.0.0", name: "lan", plugins: [{ type: "first" }] }),
)
await new Cni({ stateDir, pluginDirs: [pluginDir], ...(launcher ? { launcher } : {}) }).add(network, {
  containerId: "web",
  ifName: "eth0",
  netns: "/run/netns/web",
})
