import type { Fields } from "./json.js"

/** What an image was built for. Spelling as in Go: `linux`, `amd64`, `arm64`; variant `v8`, `v3`. */
export interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
}

const GO_ARCHITECTURE: Readonly<Record<string, string>> = {
  x64: "amd64",
  arm64: "arm64",
  arm: "arm",
  riscv64: "riscv64",
}

/** Linux on the processor this process runs on. */
export function hostPlatform(): Platform {
  return { os: "linux", architecture: GO_ARCHITECTURE[process.arch] ?? process.arch }
}

export function formatPlatform(p: Platform): string {
  return [p.os, p.architecture, p.variant].filter(Boolean).join("/")
}

export function readPlatform(fields: Fields): Platform {
  const variant = fields.string("variant", 64)
  return {
    os: fields.string("os", 64) ?? "",
    architecture: fields.string("architecture", 64) ?? "",
    ...(variant ? { variant } : {}),
  }
}

/** The variant that is meant when none is named. */
function baseline(architecture: string): number {
  return architecture === "arm64" ? 8 : architecture === "arm" ? 7 : 1
}

function level(p: Platform): number {
  const digits = /^v(\d{1,2})/.exec(p.variant ?? "")
  return digits ? Number(digits[1]) : p.variant ? Number.NaN : baseline(p.architecture)
}

/**
 * How well `offered` runs on `wanted`: undefined = not at all; otherwise more is better. Every lower or equal
 * variant runs, the highest of them wins; a variant above the wanted one never does.
 */
export function platformRank(offered: Platform, wanted: Platform): number | undefined {
  if (offered.os !== wanted.os || offered.architecture !== wanted.architecture) return undefined
  const have = level(offered)
  return have <= level(wanted) ? have : undefined
}
