import type { Digest } from "../digest.js"
import { Fields, type JsonObject, parseJsonObject } from "../spec/json.js"
import type { StoreContext } from "./context.js"
import { withDocuments } from "./documents.js"
import type { ImageRecord } from "./stored-image.js"

/** One step in the making of an image. Text is its maker's and may be anything; absent text reads as "". */
export interface HistoryEntry {
  /** RFC 3339 text. */
  readonly created: string
  /** The command. */
  readonly createdBy: string
  readonly author: string
  readonly comment: string
  /** Digest of the layer's blob; undefined for a step that only changed the configuration. */
  readonly layer?: Digest
  /** Digest of the layer's tar stream. */
  readonly diffId?: Digest
  /** Bytes of the layer's files, each in whole 4 KiB blocks. */
  readonly size: number
}

/** One entry of a config document's `history`. */
interface Step {
  readonly texts: Pick<HistoryEntry, "created" | "createdBy" | "author" | "comment">
  readonly empty: boolean
}

const NO_TEXTS: Step["texts"] = { created: "", createdBy: "", author: "", comment: "" }

/** How an image was made, newest step first. @see ImageStore.history */
export async function imageHistory(context: StoreContext, record: ImageRecord): Promise<HistoryEntry[]> {
  return withDocuments(context, record, ({ config: { document, diffIds } }) => {
    const steps = readSteps(parseJsonObject(document, "image config"), diffIds.length)
    let position = 0
    return steps
      .map(({ texts, empty }) => {
        if (empty) return { ...texts, size: 0 }
        const layer = record.layers[position] as Digest
        const size = record.parts.find(part => part.digest === layer)?.size ?? 0
        return { ...texts, layer, diffId: diffIds[position++] as Digest, size }
      })
      .reverse()
  })
}

/** A history that does not fit the layers says nothing about them: then there is one silent step for each. */
function readSteps(json: JsonObject, layers: number): Step[] {
  const entries = new Fields(json, "image config", "config-invalid").array("history", 100_000) ?? []
  const steps = entries.map(readStep)
  if (steps.filter(step => !step.empty).length === layers) return steps
  return Array.from({ length: layers }, () => ({ texts: NO_TEXTS, empty: false }))
}

function readStep(value: unknown): Step {
  const fields = new Fields(value, "image config history", "config-invalid")
  const text = (key: string, max: number) => fields.string(key, max) ?? ""
  return {
    texts: {
      created: text("created", 64),
      createdBy: text("created_by", 1024 * 1024),
      author: text("author", 4096),
      comment: text("comment", 65_536),
    },
    empty: fields.raw("empty_layer") === true,
  }
}
