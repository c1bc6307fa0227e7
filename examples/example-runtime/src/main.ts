#!/usr/bin/env node
import { Command, CommanderError } from "commander"
import {
  parseCpus,
  parseEnvironment,
  parseMemoryMiB,
  parsePort,
  parseSeconds,
  parseVolume,
} from "./arguments.js"
import { EXIT, reportError } from "./exit.js"

/**
 * The command line. Each command's code is loaded when it runs: `run` must start fast, and the others do not
 * pay for it.
 */
function buildProgram(): Command {
  const program = new Command("example-runtime")
    .description("Runs OCI images in sandboxes, each on its own Linux kernel.")
    .enablePositionalOptions()
    .exitOverride()
  addRun(program)
  addLife(program)
  addHost(program)
  return program
}

function addRun(program: Command): void {
  program
    .command("run")
    .description("Run a command in a new sandbox")
    .passThroughOptions()
    .argument("<image>", "name in the store, or oci:DIR, oci-archive:FILE, docker-archive:FILE, rootfs:DIR")
    .argument("[command...]", "instead of the image's command")
    .option("-i, --interactive", "connect stdin")
    .option("-t, --tty", "give the command a terminal")
    .option("--rm", "remove the sandbox's record when it ends")
    .option("--name <name>", "name of the sandbox")
    .option("-e, --env <name=value>", "set an environment variable", parseEnvironment, {})
    .option(
      "-v, --volume <source:target[:ro]>",
      "a folder or file of the host in the container",
      parseVolume,
      [],
    )
    .option("--network <mode>", "none, or passt for the host's network without privileges", "none")
    .option(
      "-p, --publish <host:guest[/udp]>",
      "a port of the host that leads into the container",
      parsePort,
      [],
    )
    .option("-w, --workdir <dir>", "working directory in the container")
    .option("-u, --user <user>", "name, uid, name:group or uid:gid")
    .option("--entrypoint <program>", "instead of the image's entrypoint")
    .option("--hostname <name>", "host name of the container")
    .option("-m, --memory <mib>", "RAM of the guest in MiB, or with a suffix (m, g)", parseMemoryMiB)
    .option("--cpus <n>", "virtual CPUs", parseCpus)
    .option("--hypervisor <name>", "auto, kvm or uml", "auto")
    .option("--uml-mode <mode>", "ptrace, or seccomp for trusted workloads", "ptrace")
    .option("--kernel <file>", "another guest kernel")
    .option("--initramfs <file>", "another initramfs, with the agent as its /init")
    .option("--start-timeout <seconds>", "how long the guest may take to start (default: 30)", parseSeconds)
    .option("--read-only", "make the root file system read-only")
    .option("--json", "report the end as one line of JSON on stderr")
    .option("--debug", "log what the runtime does, and the guest's console, to stderr")
    .action(async (image, command, options) => {
      const { run } = await import("./commands/run.js")
      process.exitCode = await run(image, command, options)
    })
}

function addLife(program: Command): void {
  program
    .command("ps")
    .description("List sandboxes")
    .option("-a, --all", "also those that have ended")
    .option("-q, --quiet", "only ids")
    .option("--json", "one JSON array")
    .action(async options => (await import("./commands/ps.js")).ps(options))
  program
    .command("kill")
    .description("Send a signal to the containers of running sandboxes")
    .argument("<sandbox...>", "names or ids")
    .option("-s, --signal <signal>", "name or number", "SIGKILL")
    .option("--json", "one JSON array")
    .action(async (names, options) => (await import("./commands/kill.js")).kill(names, options))
  program
    .command("rm")
    .description("Remove sandboxes that have ended")
    .argument("<sandbox...>", "names or ids")
    .option("-f, --force", "end running ones first")
    .option("--json", "one JSON array")
    .action(async (names, options) => (await import("./commands/rm.js")).rm(names, options))
  program
    .command("prune")
    .description("Remove ended sandboxes and whatever killed owners left behind")
    .option("--json", "one JSON array")
    .action(async options => (await import("./commands/prune.js")).prune(options))
}

function addHost(program: Command): void {
  program
    .command("pull")
    .description("Fetch an image from a registry into the store")
    .argument("<name>", "[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], of docker.io without a host")
    .option("-q, --quiet", "only the digest")
    .option("--json", "one JSON object")
    .action(async (name, options) => (await import("./commands/pull.js")).pull(name, options))
  program
    .command("images")
    .description("List images in the store")
    .option("-q, --quiet", "only ids")
    .option("--json", "one JSON array")
    .action(async options => (await import("./commands/images.js")).images(options))
  program
    .command("doctor")
    .description("Say which hypervisors work here, by running a guest on each")
    .option("--json", "one JSON array")
    .action(async options => {
      process.exitCode = await (await import("./commands/doctor.js")).doctor(options)
    })
  program
    .command("version")
    .description("Versions of this program and of the guest kernels")
    .option("--json", "one JSON object")
    .action(async options => (await import("./commands/version.js")).version(options))
}

/** commander has printed its message already; its own code for bad usage is 1, Docker's is 125. */
function exitCodeOfParser(error: CommanderError): number {
  return error.exitCode === 0 ? 0 : EXIT.runtime
}

try {
  await buildProgram().parseAsync()
} catch (error) {
  process.exitCode = error instanceof CommanderError ? exitCodeOfParser(error) : reportError(error)
}
// Nothing is left to do, and taking the JavaScript engine down in good order would cost 10 ms of every run.
process.exit()
