import type { Command } from "commander"

/** What is asked about this machine. */
export function addHost(program: Command): void {
  program
    .command("doctor")
    .description("Say which hypervisors work here, by running a guest on each")
    .option("--json", "one JSON array")
    .action(async options => {
      process.exitCode = await (await import("../commands/doctor.js")).doctor(options)
    })
  program
    .command("version")
    .description("Versions of this program and of the guest kernels")
    .option("--json", "one JSON object")
    .action(async options => (await import("../commands/version.js")).version(options))
}
