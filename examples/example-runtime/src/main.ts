#!/usr/bin/env node
import { Command, CommanderError } from "commander"
import { EXIT, reportError } from "./exit.js"
import { addHost } from "./program/host.js"
import { addImages } from "./program/images.js"
import { addRun } from "./program/run.js"
import { addSandboxes } from "./program/sandboxes.js"

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
  addSandboxes(program)
  addImages(program)
  addHost(program)
  return program
}

/** commander has printed its message already; its own code for bad usage is 1, Docker's is 125. */
function exitCodeOfParser(error: CommanderError): number {
  return error.exitCode === 0 ? 0 : EXIT.runtime
}

/** What is written to a pipe that is full waits in this program for its reader, and would end with it. */
async function written(output: NodeJS.WriteStream): Promise<void> {
  if (output.writableLength === 0) return
  output.on("error", () => undefined) // nobody reads any more
  await new Promise(resolve => output.write("", resolve))
}

try {
  await buildProgram().parseAsync()
} catch (error) {
  process.exitCode = error instanceof CommanderError ? exitCodeOfParser(error) : reportError(error)
}
await Promise.all([written(process.stdout), written(process.stderr)])
// Nothing is left to do, and taking the JavaScript engine down in good order would cost 10 ms of every run.
process.exit()
