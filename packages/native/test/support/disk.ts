import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { expect } from "vitest"
import * as native from "../../src/index.js"

export const PAGE = 4096

/** A file, memory for it, and a batch of operations between them. */
export class TestDisk implements Disposable {
  readonly dir = mkdtempSync(join(tmpdir(), "tsvmm-native-"))
  readonly fd = openSync(join(this.dir, "disk"), "w+")
  readonly memory = native.Mapping.create({ name: "io", size: 64 * PAGE, guard: true })
  readonly batch = new native.IoBatch(16, 2048)

  ram(): Uint8Array {
    return new Uint8Array(this.memory.buffer)
  }

  /** Runs all of `indexes` asynchronously and gives their results by row. */
  runAsync(
    regions: readonly ArrayBuffer[],
    indexes: readonly number[],
    options?: native.RunAsyncOptions,
  ): Promise<Map<number, number>> {
    return new Promise(resolve => {
      const results = new Map<number, number>()
      const note = (index: number, result: number): void => {
        expect(results.has(index)).toBe(false)
        results.set(index, result)
        if (results.size === indexes.length) resolve(results)
      }
      this.batch.runAsync(regions, indexes, note, options)
    })
  }

  [Symbol.dispose](): void {
    this.memory.close()
    closeSync(this.fd)
    rmSync(this.dir, { recursive: true })
  }
}
