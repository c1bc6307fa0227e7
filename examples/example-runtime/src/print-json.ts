/** Prints a value as JSON that is safe to show: the characters that steer a terminal are escaped, C1 too. */
export function printJson(value: unknown): void {
  const text = JSON.stringify(value, undefined, 4)
  console.log(
    text.replace(/[\u007f-\u009f]/g, char => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`),
  )
}
