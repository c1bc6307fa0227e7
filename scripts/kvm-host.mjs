// npm run kvm-host -- COMMAND…: runs a command in a machine that has KVM (QEMU, emulated SVM) and sees these files.
// npm run kvm-host -- --serve: keeps one running; further calls use it.
import { constants } from "node:os"
import { startKvmHost } from "../test/kvm-host/host.mjs"
import { sharedKvmHost, shareKvmHost } from "../test/kvm-host/share.mjs"
import { ensureDebianPackages } from "./setup/debian.mjs"
import { CACHE } from "./setup/paths.mjs"
import { main, note, SetupError, step } from "./setup/report.mjs"
import { makeCache, Stamps } from "./setup/stamps.mjs"
import { stockKernel } from "./setup/stock-kernel.mjs"

const SOCKET = `${CACHE}/kvm-host.sock`
const USAGE = "usage: npm run kvm-host -- COMMAND [ARGUMENT…] | --serve"
/** What of this environment a command in the host gets. */
const PASSED = /^(CI|NO_COLOR|FORCE_COLOR|DEBUG|TS_VMM_.*)$/

async function startHost() {
  await ensureDebianPackages(new Stamps(), ["start", "test", "bench"])
  const kernel = await stockKernel()
  return await step("KVM test host", () => startKvmHost(kernel))
}

async function serve() {
  if (await sharedKvmHost(SOCKET)) throw new SetupError("a KVM test host is already running")
  makeCache()
  const host = await startHost()
  const close = shareKvmHost(host, SOCKET)
  note(`  commands of other terminals run here: npm run kvm-host -- COMMAND…  (Ctrl-C ends it)`)
  await new Promise(resolve => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, resolve)
  })
  close()
  await host.stop()
}

async function runIn(host, argv) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => PASSED.test(name)))
  const run = host.run(argv, { env, onOutput: (name, bytes) => process[name].write(bytes) })
  process.stdin.on("data", bytes => run.write(bytes)).on("end", () => run.end())
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => run.kill())
  const { code, signal } = await run.exited
  process.stdin.destroy()
  return code ?? 128 + constants.signals[signal]
}

await main(async () => {
  const argv = process.argv.slice(process.argv[2] === "--" ? 3 : 2)
  if (argv.length === 0) throw new SetupError(USAGE, { exitCode: 2 })
  if (argv[0] === "--serve") return await serve()
  const host = (await sharedKvmHost(SOCKET)) ?? (await startHost())
  try {
    return await runIn(host, argv)
  } finally {
    await host.stop()
  }
})
