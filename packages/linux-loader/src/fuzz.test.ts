import { describe, expect, test } from "vitest"
import { Cmdline } from "./cmdline.js"
import { LoaderError } from "./errors.js"
import { loadInitrd } from "./initrd.js"
import { bytesImage } from "./kernel-image.js"
import { loadKernel } from "./load-kernel.js"
import type { LoadedKernel } from "./loaded-kernel.js"
import { arm64Image } from "./testing/arm64-image.js"
import { bzImage } from "./testing/bzimage.js"
import { elfImage, elfNote, pvhNote } from "./testing/elf-image.js"
import { dirtyMemory, expectUntouched, MIB } from "./testing/memory.js"
import { damaged, randomSource } from "./testing/random.js"

const ROUNDS = 1500
const RAM = 2 * MIB
const BASE = 1.25 * MIB

const NOTES = Buffer.concat([elfNote("GNU\0", 3, Buffer.alloc(20)), pvhNote(BASE)])
const ELF = elfImage(
  BASE,
  [
    { paddr: BASE, data: Buffer.alloc(300, 1) },
    { paddr: 1.5 * MIB, data: Buffer.alloc(100, 2), memSize: 9000 },
  ],
  NOTES,
)
const IMAGES: Record<string, { image: Uint8Array; range: number }> = {
  "ELF headers": { image: ELF, range: 64 + 3 * 56 },
  "ELF notes": { image: ELF.subarray(0, ELF.length), range: ELF.length },
  "setup headers": {
    image: bzImage({ pref_address: BASE, kernel_alignment: 4096, init_size: 16384 }),
    range: 0x290,
  },
  "arm64 headers": { image: arm64Image({ imageSize: 16384n, textOffset: 0x10_0000n }), range: 64 },
}

/** A kernel from `bytes`, or undefined when it was refused as it should be. */
function load(memory: ReturnType<typeof dirtyMemory>, bytes: Uint8Array): LoadedKernel | undefined {
  try {
    return loadKernel(memory, bytesImage(bytes))
  } catch (error) {
    expect(error).toBeInstanceOf(LoaderError)
    return undefined
  }
}

describe.each(Object.entries(IMAGES))("damaged %s", (_, { image, range }) => {
  test.each([1, 0xdead, 42])("seed %i: refused with a code and nothing written, or loaded in place", seed => {
    const random = randomSource(seed)
    const memory = dirtyMemory(RAM)
    let loaded = 0
    for (let round = 0; round < ROUNDS; round++) {
      const kernel = load(memory, damaged(random, image, range))
      if (kernel) {
        loaded++
        const { loadAddress, endAddress } = kernel
        expect(0 <= loadAddress && loadAddress < endAddress && endAddress <= RAM).toBe(true)
        const initrd = placeInitrd(memory, kernel)
        if (initrd)
          expect(initrd.address >= endAddress || initrd.address + initrd.size <= loadAddress).toBe(true)
        memory.slices(loadAddress, endAddress - loadAddress)[0]!.fill(0xee)
        if (initrd) memory.slices(initrd.address, initrd.size)[0]!.fill(0xee)
      }
      if (kernel || round % 10 === 0) expectUntouched(memory)
    }
    // Both ways are really taken.
    expect(loaded).toBeGreaterThan(ROUNDS / 100)
    expect(loaded).toBeLessThan(ROUNDS)
  })
})

function placeInitrd(memory: ReturnType<typeof dirtyMemory>, kernel: LoadedKernel) {
  try {
    return loadInitrd(memory, bytesImage(new Uint8Array(1000)), kernel)
  } catch (error) {
    expect(error).toMatchObject({ code: "initrd-no-room" })
    return undefined
  }
}

/** What the kernel makes of a command line. @see lib/cmdline.c, next_arg */
function parametersOf(text: string): string[] {
  const words: string[] = []
  let quoted = false
  let word = ""
  for (const character of `${text} `) {
    if (character === '"') quoted = !quoted
    else if (character !== " " || quoted) word += character
    else if (word !== "") {
      words.push(word)
      word = ""
    }
  }
  const end = words.indexOf("--")
  return end < 0 ? words : words.slice(0, end)
}

describe("K6: whatever goes in, the kernel reads each parameter as it was given", () => {
  const ALPHABET = ['"', " ", "=", "-", "\n", "a", "é", "--", " -- ", "init", "\0"]

  test.each([1, 0xbeef])("seed %i", seed => {
    const random = randomSource(seed)
    const text = () => Array.from({ length: random(5) }, () => ALPHABET[random(ALPHABET.length)]).join("")
    let refused = 0
    for (let round = 0; round < ROUNDS; round++) {
      const cmdline = new Cmdline("first=1")
      const expected = ["first=1"]
      for (let i = 0; i < 3; i++) {
        const [key, value] = [text(), text()]
        try {
          cmdline.insert(key, value)
          expected.push(`${key}=${value}`)
        } catch (error) {
          expect(error).toBeInstanceOf(LoaderError)
          refused++
        }
      }
      expect(parametersOf(cmdline.insertInitArgs("last").toString())).toEqual(expected)
    }
    expect(refused).toBeGreaterThan(ROUNDS / 10)
    expect(refused).toBeLessThan(ROUNDS * 3)
  })
})
