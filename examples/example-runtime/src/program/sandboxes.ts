import type { Command } from "commander"
import { collect, cpusParser, memoryParser } from "../arguments.js"

/** What is done with sandboxes that there are. */
export function addSandboxes(program: Command): void {
  program
    .command("ps")
    .description("List sandboxes")
    .option("-a, --all", "also those that have ended")
    .option("-q, --quiet", "only ids")
    .option("--json", "one JSON array")
    .action(async options => (await import("../commands/ps.js")).ps(options))
  program
    .command("kill")
    .description("Send a signal to the containers of running sandboxes")
    .argument("<sandbox...>", "names or ids")
    .option("-s, --signal <signal>", "name or number", "SIGKILL")
    .option("--json", "one JSON array")
    .action(async (names, options) => (await import("../commands/kill.js")).kill(names, options))
  program
    .command("diff")
    .description(
      "List what the container of a running sandbox changed of its image: A added, C changed, D deleted",
    )
    .argument("<sandbox>", "name or id")
    .option("--json", "one JSON array")
    .action(async (name, options) => (await import("../commands/diff.js")).diff(name, options))
  program
    .command("commit")
    .description("Make an image of what the container of a running sandbox is now")
    .argument("<sandbox>", "name or id")
    .argument("[name]", "of the image")
    .option("-c, --change <instruction>", "as in a Dockerfile: CMD, ENV, USER, …", collect, [])
    .option("-m, --message <text>", "what was done, for the image's history")
    .option("-a, --author <text>", "who did it")
    .option("--no-pause", "let the container's programs run meanwhile")
    .option("--json", "one JSON object")
    .action(async (sandbox, name, options) =>
      (await import("../commands/commit.js")).commit(sandbox, name, options),
    )
  program
    .command("cp")
    .description("Copy files between the container of a running sandbox and this machine")
    .argument("<source>", "SANDBOX:PATH, a path, or - for a tar archive on stdin; FOLDER/. is what is in it")
    .argument("<target>", "a path, SANDBOX:PATH, or - for a tar archive on stdout")
    .option("-a, --archive", "keep owners; else all belongs to root in the container, and to you here")
    .option("-L, --follow-link", "copy what a source that is a link leads to")
    .option("-q, --quiet", "do not say how much was copied")
    .option("--json", "one JSON object")
    .action(async (source, target, options) =>
      (await import("../commands/cp.js")).cp(source, target, options),
    )
  program
    .command("memory")
    .description("Say how much memory a running sandbox has, and change it")
    .argument("<sandbox>", "name or id")
    .option(
      "--target <mib>",
      "what the guest shall get along with, in MiB, or with a suffix (m, g)",
      memoryParser("--target"),
    )
    .option("--size <mib>", "RAM of the guest, up to run --memory-max", memoryParser("--size"))
    .option("--reclaim", "take what the guest has free, now, and let it have it again")
    .option("--json", "one JSON object")
    .action(async (name, options) => (await import("../commands/memory.js")).memory(name, options))
  program
    .command("cpus")
    .description("Say how many virtual CPUs a running sandbox works with, and change it (kvm)")
    .argument("<sandbox>", "name or id")
    .option("--online <n>", "work with so many, up to run --cpus-max", cpusParser("--online"))
    .option("--json", "one JSON object")
    .action(async (name, options) => (await import("../commands/cpus.js")).cpus(name, options))
  program
    .command("rm")
    .description("Remove sandboxes that have ended")
    .argument("<sandbox...>", "names or ids")
    .option("-f, --force", "end running ones first")
    .option("--json", "one JSON array")
    .action(async (names, options) => (await import("../commands/rm.js")).rm(names, options))
  program
    .command("prune")
    .description("Remove ended sandboxes and whatever killed owners left behind")
    .option("--json", "one JSON array")
    .action(async options => (await import("../commands/prune.js")).prune(options))
}
