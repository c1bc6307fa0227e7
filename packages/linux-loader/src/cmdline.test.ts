import { describe, expect, test } from "vitest"
import { Cmdline, COMMAND_LINE_SIZE } from "./cmdline.js"
import type { LoaderErrorCode } from "./errors.js"
import { refusedWith } from "./testing/refused.js"

describe("Cmdline", () => {
  test("joins parameters with spaces and puts init's arguments last", () => {
    const cmdline = new Cmdline("console=ttyS0  quiet")
      .insertInitArgs("--log debug")
      .insert("panic", "-1")
      .insertStr("ro rootwait")
    expect(cmdline.toString()).toBe("console=ttyS0 quiet panic=-1 ro rootwait -- --log debug")
    expect(cmdline.length).toBe(55)
  })

  test("takes a whole command line apart at its --", () => {
    const cmdline = new Cmdline("quiet -- one two").insert("ro", "1").insertStr("x -- three")
    expect(cmdline.toString()).toBe("quiet ro=1 x -- one two three")
  })

  test("ends in a NUL as bytes, also when it is empty", () => {
    expect(new Cmdline().toBytes()).toEqual(Buffer.from([0]))
    expect(new Cmdline("a b").toBytes()).toEqual(Buffer.from("a b\0"))
  })

  test("quotes a value with spaces, which the kernel takes off again", () => {
    expect(new Cmdline().insert("dm-mod.create", "vroot,,,ro,0 1 linear").toString()).toBe(
      'dm-mod.create="vroot,,,ro,0 1 linear"',
    )
    expect(new Cmdline('a="b  c" d').toString()).toBe('a="b  c" d')
  })

  test("a -- inside of quotes is no end of the parameters", () => {
    expect(new Cmdline('a="x -- y" b').insert("c", "1").toString()).toBe('a="x -- y" b c=1')
  })

  test("describes virtio-mmio devices as the kernel takes them", () => {
    const cmdline = new Cmdline()
      .addVirtioMmioDevice({ size: 4096, base: 0xd000_0000, irq: 5 })
      .addVirtioMmioDevice({ size: 0x200, base: 0xd000_1000, irq: 6, id: 3 })
      .addVirtioMmioDevice({ size: 2 ** 21, base: 0x1_0000_0000, irq: 7 })
    expect(cmdline.toString()).toBe(
      "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=512@0xd0001000:6:3 virtio_mmio.device=2M@0x100000000:7",
    )
  })

  test.each([
    { size: 0, base: 0, irq: 1 },
    { size: -4096, base: 0, irq: 1 },
    { size: 4096, base: 0.5, irq: 1 },
    { size: 4096, base: 0, irq: Number.NaN },
    { size: 4096, base: 0, irq: 1, id: -1 },
  ])("refuses the device %o", device => {
    refusedWith("cmdline-device", () => new Cmdline().addVirtioMmioDevice(device))
  })

  test.each([0, -1, 1.5, Number.NaN])("refuses %d as the longest size", maxSize => {
    refusedWith("invalid-argument", () => new Cmdline("", { maxSize }))
  })
})

describe("K6: command lines that a kernel would read otherwise", () => {
  test.each<[string, LoaderErrorCode, (cmdline: Cmdline) => void]>([
    ["NUL", "cmdline-character", c => c.insertStr("a\0b")],
    ["newline", "cmdline-character", c => c.insert("a", "b\ninit=/bin/sh")],
    ["tab", "cmdline-character", c => c.insertInitArgs("a\tb")],
    ["DEL", "cmdline-character", c => c.insertStr("a\x7f")],
    ["non-ASCII", "cmdline-character", c => c.insert("ä", "1")],
    ["no-break space", "cmdline-character", c => c.insert("a", "b\u00a0c")],
    ["space in a key", "cmdline-key", c => c.insert("a init", "1")],
    ["= in a key", "cmdline-key", c => c.insert("init=/bin/sh x", "1")],
    ["quote in a key", "cmdline-key", c => c.insert('a"', "1")],
    ["empty key", "cmdline-key", c => c.insert("", "1")],
    ["quote in a value, to get out of the quotes", "cmdline-quote", c => c.insert("a", 'b" init=/bin/sh "')],
    ["open quote", "cmdline-quote", c => c.insertStr('a="b')],
    ["open quote for init", "cmdline-quote", c => c.insertInitArgs('"')],
  ])("K6: %s", (_, code, insert) => {
    const cmdline = new Cmdline("before")
    refusedWith(code, () => insert(cmdline))
    expect(cmdline.toString()).toBe("before")
  })

  test("K6: a value cannot add a parameter or end the parameters", () => {
    const cmdline = new Cmdline().insert("user", "x init=/bin/sh -- y").insert("after", "1")
    expect(cmdline.toString()).toBe('user="x init=/bin/sh -- y" after=1')
  })

  test("K6: an error names the place of the character", () => {
    expect(refusedWith("cmdline-character", () => new Cmdline("ab\rc"))).toMatchObject({
      offset: 2,
      have: 13,
    })
  })

  test("K6: too long, counting the NUL", () => {
    expect(new Cmdline("x".repeat(COMMAND_LINE_SIZE - 1)).length).toBe(2047)
    const error = refusedWith("cmdline-too-long", () => new Cmdline("x".repeat(COMMAND_LINE_SIZE)))
    expect(error).toMatchObject({ need: 2049, have: 2048 })
    const small = new Cmdline("abc", { maxSize: 8 })
    refusedWith("cmdline-too-long", () => small.insertInitArgs("y"))
    expect(small.insertStr("def").toString()).toBe("abc def")
  })
})
