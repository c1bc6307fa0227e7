import { openStore } from "../../store.js"

/** `tag` */
export async function tag(reference: string, name: string): Promise<void> {
  await (await openStore()).tag(reference, name)
}
