// The process that owns the sandbox of attach-network.test.ts: it does what it is told, and says what came of it.
import { Sandbox } from "@ts-vmm/runtime"

const { options, steps } = JSON.parse(process.argv[2])
const sandbox = await Sandbox.create(options)

const DO = {
  attach: network => sandbox.attachNetwork(network),
  grow: sizeMiB => sandbox.memory.resize(sizeMiB).then(() => "done"),
  detach: device => sandbox.detachNetwork(device).then(() => "done"),
  shell: async script => {
    const { stdout, stderr } = await sandbox.shell(script)
    return stdout + stderr
  },
}

const results = []
for (const [verb, argument] of steps) {
  try {
    results.push(await DO[verb](argument))
  } catch (error) {
    results.push(error.code ?? String(error))
  }
}
await sandbox.destroy()
process.stdout.write(JSON.stringify(results))
