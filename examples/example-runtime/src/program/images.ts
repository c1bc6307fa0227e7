import type { Command } from "commander"
import { collect, parseDiskSize, parseOwner, parseTime } from "../arguments.js"

/** Images: each command is there twice where docker has it so, `rmi` and `image rm` for instance. */
export function addImages(program: Command): void {
  const image = program.command("image").description("Manage images")
  for (const [parent, list, remove] of [
    [program, "images", "rmi"],
    [image, "ls", "rm"],
  ] as const) {
    addTransfers(parent)
    addArchives(parent)
    addShelf(parent, list, remove)
  }
  addBuild(image)
  addExport(image)
  addSystem(program)
  addLogin(program)
}

const NAME = "[HOST[:PORT]/]REPOSITORY[:TAG], of docker.io without a host"

function addTransfers(parent: Command): void {
  parent
    .command("pull")
    .description("Fetch an image from a registry into the store")
    .argument("<name>", `${NAME}; or with @DIGEST`)
    .option("-q, --quiet", "only the digest")
    .option("--keep-index", "keep what run --lazy needs when the image is gone again")
    .option("--json", "one JSON object, and layers as JSON lines on stderr")
    .action(async (name, options) => (await import("../commands/images/pull.js")).pull(name, options))
  parent
    .command("push")
    .description("Send an image to the registry that its name says")
    .argument("<name>", NAME)
    .option("-q, --quiet", "only the name")
    .option("--json", "one JSON object, and blobs as JSON lines on stderr")
    .action(async (name, options) => (await import("../commands/images/push.js")).push(name, options))
}

function addArchives(parent: Command): void {
  parent
    .command("save")
    .description("Write images to an archive")
    .argument("<image...>", "names keep in the archive; ids and digests have none there")
    .option("-o, --output <file>", "instead of stdout")
    .option("--format <format>", "docker-archive or oci-archive", "docker-archive")
    .action(async (names, options) => (await import("../commands/images/save.js")).save(names, options))
  parent
    .command("load")
    .description("Load the images of an archive, under the names that they have there")
    .option("-i, --input <file>", "instead of stdin")
    .option("-q, --quiet", "no progress")
    .option("--json", "one JSON array, and layers as JSON lines on stderr")
    .action(async options => (await import("../commands/images/load.js")).load(options))
  parent
    .command("import")
    .description("Make an image of a tar file with a root file system")
    .argument("<file>", "plain, gzip or zstd; - for stdin")
    .argument("[name]", "of the image")
    .option("-c, --change <instruction>", "as in a Dockerfile: CMD, ENV, USER, …", collect, [])
    .option("--json", "one JSON object")
    .action(async (file, name, options) =>
      (await import("../commands/images/import.js")).importTar(file, name, options),
    )
}

function addShelf(parent: Command, list: string, remove: string): void {
  parent
    .command(list)
    .description("List images in the store")
    .option("-q, --quiet", "only ids")
    .option("--json", "one JSON array")
    .action(async options => (await import("../commands/images/list.js")).listImages(options))
  parent
    .command(remove)
    .description("Remove names, and images with their last name")
    .argument("<image...>", "names, ids or digests")
    .option("-f, --force", "also with several names, or while a sandbox runs it")
    .option("--json", "one JSON array")
    .action(async (names, options) => (await import("../commands/images/rm.js")).removeImages(names, options))
  parent
    .command("tag")
    .description("Give an image another name")
    .argument("<image>", "name, id or digest")
    .argument("<name>", NAME)
    .action(async (image, name) => (await import("../commands/images/tag.js")).tag(image, name))
  parent
    .command("inspect")
    .description("Describe images as JSON")
    .argument("<image...>", "names, ids or digests")
    .option("--json", "as it is anyway")
    .action(async names => (await import("../commands/images/inspect.js")).inspect(names))
  parent
    .command("history")
    .description("Tell how an image was made, newest step first")
    .argument("<image>", "name, id or digest")
    .option("--no-trunc", "whole commands")
    .option("--json", "one JSON array")
    .action(async (image, options) => (await import("../commands/images/history.js")).history(image, options))
}

function addBuild(image: Command): void {
  image
    .command("prune")
    .description("Remove images without a name")
    .option("-a, --all", "every image that no sandbox runs")
    .option("-f, --force", "do not ask")
    .option("--json", "one JSON object")
    .action(async options => (await import("../commands/images/prune.js")).pruneImages(options))
  image
    .command("build-rootfs")
    .description("Make an image of a folder with a root file system: the same folder, the same digest")
    .argument("<folder>")
    .argument("[name]", "of the image")
    .option("-c, --change <instruction>", "as in a Dockerfile: CMD, ENV, USER, …", collect, [])
    .option("--owner <uid:gid>", "of every file, instead of its own", parseOwner)
    .option(
      "--latest-time <seconds>",
      "cut later times of files down to this, in seconds since 1970",
      parseTime,
    )
    .option("--json", "one JSON object")
    .action(async (folder, name, options) =>
      (await import("../commands/images/import.js")).buildRootfs(folder, name, options),
    )
}

function addExport(image: Command): void {
  image
    .command("export-ext4")
    .description(
      "Write an image's files to a disk with an ext4 file system, for run --root-disk or any other machine",
    )
    .argument("<image>", "name, id or digest")
    .requiredOption("-o, --output <file>", "the disk")
    .option("--size <size>", "of the disk, with k, m, g or t (default: its files and 1 GiB)", parseDiskSize)
    .option("--json", "one JSON object")
    .action(async (name, options) =>
      (await import("../commands/images/export-ext4.js")).exportExt4(name, options),
    )
}

function addSystem(program: Command): void {
  program
    .command("system")
    .description("Look after the store")
    .command("df")
    .description("Say what images take on the disk")
    .option("-v, --verbose", "each image")
    .option("--json", "one JSON object")
    .action(async options => (await import("../commands/images/usage.js")).usage(options))
}

function addLogin(program: Command): void {
  program
    .command("login")
    .description("Try credentials with a registry and keep them, where docker keeps them")
    .argument("[registry]", "HOST[:PORT]; docker.io without")
    .option("-u, --username <name>")
    .option("-p, --password <password>", "others on this machine can read it: better --password-stdin")
    .option("--password-stdin", "take the password from stdin")
    .action(async (registry, options) => (await import("../commands/login.js")).login(registry, options))
  program
    .command("logout")
    .description("Forget the credentials of a registry")
    .argument("[registry]", "HOST[:PORT]; docker.io without")
    .action(async registry => (await import("../commands/login.js")).logout(registry))
}
