const HEX = 16
const PRINTABLE_FIRST = 0x20
const PRINTABLE_LAST = 0x7e
const BACKSLASH = 0x5c

/**
 * Guest output as printable ASCII: everything else, terminal escape sequences and broken UTF-8 included,
 * becomes `\xHH` (a backslash is doubled). For logs and error messages, which must never make a terminal act
 * on what a guest wrote.
 *
 * @example
 * ```ts
 * escapeConsoleText(Uint8Array.of(0x1b, 0x5b, 0x32, 0x4a))   // "\\x1b[2J"
 * ```
 */
export function escapeConsoleText(bytes: Uint8Array): string {
  let text = ""
  for (const byte of bytes) {
    if (byte === BACKSLASH) text += "\\\\"
    else if (byte >= PRINTABLE_FIRST && byte <= PRINTABLE_LAST) text += String.fromCharCode(byte)
    else text += `\\x${byte.toString(HEX).padStart(2, "0")}`
  }
  return text
}
