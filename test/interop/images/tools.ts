import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { join } from "node:path"

export const isRoot = process.getuid?.() === 0

function run(program: string, args: readonly string[]): string {
  return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] }).trim()
}

export const sha256 = (bytes: Buffer) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`

export const skopeo = (...args: string[]) => run("skopeo", args)
export const umoci = (...args: string[]) => run("umoci", args)

/** Digest of an image's manifest, and of its config, as skopeo reads them. */
export function skopeoDigests(image: string): { manifest: string; config: string } {
  const raw = (...more: string[]) =>
    sha256(
      execFileSync("skopeo", ["inspect", "--raw", ...more, image], { stdio: ["ignore", "pipe", "pipe"] }),
    )
  return { manifest: raw(), config: raw("--config") }
}

/** podman and buildah with a store of their own, which needs no driver of the kernel's. */
export class Containers {
  readonly #options: readonly string[]
  readonly #state: string

  constructor(folder: string) {
    const [root, runroot] = [join(folder, "containers"), join(folder, "containers-run")]
    this.#state = join(folder, "containers-state")
    this.#options = ["--root", root, "--runroot", runroot, "--storage-driver", "vfs"]
  }

  podman(...args: string[]): string {
    return run("podman", [...this.#options, "--tmpdir", this.#state, ...args])
  }

  buildah(...args: string[]): string {
    return run("buildah", [...this.#options, ...args])
  }

  /** What podman calls an image's id is the digest of its config. */
  digests(name: string): { manifest: string; config: string } {
    const [id, manifest] = this.podman("image", "inspect", "--format", "{{.Id}} {{.Digest}}", name).split(" ")
    return { manifest: manifest ?? "", config: `sha256:${id}` }
  }
}
