/** `5 minutes ago`, from milliseconds since 1970. */
export function ago(then: number, now = Date.now()): string {
  const seconds = Math.max(0, Math.round((now - then) / 1000))
  const [amount, unit] =
    seconds < 60
      ? [seconds, "second"]
      : seconds < 3600
        ? [Math.floor(seconds / 60), "minute"]
        : seconds < 86_400
          ? [Math.floor(seconds / 3600), "hour"]
          : [Math.floor(seconds / 86_400), "day"]
  return `${amount} ${unit}${amount === 1 ? "" : "s"} ago`
}

/** Bytes as people read them. */
export function size(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"]
  const power = Math.min(units.length - 1, bytes > 0 ? Math.floor(Math.log10(bytes) / 3) : 0)
  return `${(bytes / 1000 ** power).toPrecision(3)}${units[power]}`
}
