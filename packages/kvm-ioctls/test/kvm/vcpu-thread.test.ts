import { describe, expect, test } from "vitest"
import { HLT, IN_AL_DX, imm16, loop, OUT_DX_AL, SPIN, tableWith } from "../support/real-mode.js"
import { createVm, describeExit, start, until } from "../support/vcpu-threads.js"

const PORT = 0x10
/** Somewhere in guest memory that no code is. */
const RESULT = 0x8000

/** MOV [RESULT], AL. */
const STORE_AL = [0xa2, ...imm16(RESULT)]
/** INC word [RESULT]. */
const COUNT = [0xff, 0x06, ...imm16(RESULT)]
/** A guest that counts at RESULT for ever, with interrupts off. */
const COUNTING_SPIN = [0xfa, ...COUNT, 0xeb, 0xfa]

describe("exits", () => {
  test("JavaScript answers in the page, and the guest goes on with the answer", async () => {
    const vm = createVm()
    const vcpu = vm.addVcpu([0xe4, PORT, ...STORE_AL, HLT])

    const { thread, exits } = start(vcpu, tableWith(), exit => {
      if (exit.reason === "io") exit.data[0] = 0x5a
    })
    const end = await thread.ended

    expect(end).toEqual({})
    expect(exits).toEqual(["in 10", "hlt"])
    expect(vm.view.getUint8(RESULT)).toBe(0x5a)
    expect(thread.state).toBe("ended")
  })

  test("a promise keeps the vCPU parked until it resolves", async () => {
    const vm = createVm()
    let answer = (): void => undefined
    const waiting = new Promise<void>(resolve => {
      answer = resolve
    })
    const { thread, exits } = start(vm.addVcpu([0xe4, PORT, HLT]), tableWith(), () => waiting)

    await until(() => exits.length === 1)
    await new Promise(resolve => setTimeout(resolve, 20))
    expect(exits).toEqual(["in 10"])
    answer()
    await thread.ended

    expect(exits).toEqual(["in 10", "hlt"])
  })

  test.each([
    [
      "a throw",
      () => {
        throw new Error("no such device")
      },
    ],
    ["a rejection", () => Promise.reject(new Error("no such device"))],
  ])("%s in onExit ends the thread, and is no unhandled rejection", async (_, answer) => {
    const unhandled: unknown[] = []
    const listener = (error: unknown): void => void unhandled.push(error)
    process.on("unhandledRejection", listener)
    const { thread } = start(createVm().addVcpu([0xe4, PORT, HLT]), tableWith(), answer)

    await until(() => thread.state === "ended")
    await new Promise(resolve => setTimeout(resolve, 20))
    process.off("unhandledRejection", listener)

    expect(unhandled).toEqual([])
    await expect(thread.ended).rejects.toThrow("no such device")
    await thread.stop()
  })

  test("an address in no row reads as ones, swallows writes, and is counted", async () => {
    const vm = createVm()
    const table = tableWith()
    const code = [
      ...[0xba, ...imm16(0x400), 0xed, 0xa3, ...imm16(RESULT)], // mov dx, 0x400; in ax, dx; mov [RESULT], ax
      ...[0xef, 0xbf, ...imm16(RESULT + 2)], //                    out dx, ax; mov di, RESULT + 2
      ...[0xb9, ...imm16(3), 0xfc, 0xf3, 0x6c], //                 mov cx, 3; cld; rep insb
      ...[0xb8, ...imm16(0x2000), 0x8e, 0xd8], //                  mov ax, 0x2000; mov ds, ax
      ...[0xa1, ...imm16(0), 0xa3, ...imm16(4)], //                mov ax, [0]; mov [4], ax: no memory there
      HLT,
    ]

    const { thread, exits } = start(vm.addVcpu(code), table)
    await thread.ended

    expect(exits).toEqual(["hlt"])
    expect(vm.view.getUint16(RESULT, true)).toBe(0xffff)
    expect(new Uint8Array(vm.memory.buffer, RESULT + 2, 4)).toEqual(Uint8Array.of(0xff, 0xff, 0xff, 0))
    // String instructions may come in one exit or in several.
    expect(table.unclaimed).toBeGreaterThanOrEqual(5)
  })

  test("MMIO is delivered with its address, width and data", async () => {
    const vm = createVm()
    const seen: number[] = []
    const table = tableWith([
      { space: "mmio", start: 0x20000, end: 0x20100, read: "deliver", write: "deliver" },
    ])
    const code = [
      ...[0xb8, ...imm16(0x2000), 0x8e, 0xc0], // mov ax, 0x2000; mov es, ax
      ...[0x26, 0xa1, ...imm16(8)], //            mov ax, [es:8]
      ...[0x26, 0xa2, ...imm16(0xc), HLT], //     mov [es:0xc], al
    ]

    const { thread, exits } = start(vm.addVcpu(code), table, exit => {
      if (exit.reason !== "mmio") return
      if (exit.isWrite) seen.push(...exit.data)
      else exit.data.set([0x34, 0x12])
    })
    await thread.ended

    expect(exits).toEqual(["read 20008 2", "write 2000c 1", "hlt"])
    expect(seen).toEqual([0x34])
  })
})

test("a guest that does nothing but exit leaves the event loop its turns", async () => {
  const { thread, exits } = start(createVm().addVcpu(loop(0, PORT, [IN_AL_DX])), tableWith())

  for (let turn = 0; turn < 20; turn++) {
    const before = exits.length
    await new Promise(resolve => setTimeout(resolve, 1))
    await until(() => exits.length > before)
  }
  await thread.stop()

  expect(new Set(exits)).toEqual(new Set(["in 10"]))
})

describe("exits that the table answers", () => {
  test("a cell answers reads of its width, and wider ones are delivered", async () => {
    const vm = createVm()
    const table = tableWith([{ space: "pio", start: 0x20, end: 0x22, read: "cell", write: "drop", cell: 2 }])
    Atomics.store(table.cells, 2, 0x1234_5678)
    const code = [
      ...[0xe4, 0x20, ...STORE_AL], //               in al, 0x20; mov [RESULT], al
      ...[0xe5, 0x20, 0xa3, ...imm16(RESULT + 2)], // in ax, 0x20; mov [RESULT + 2], ax
      ...[0x66, 0xe5, 0x20, 0xe4, 0x21, HLT], //      in eax, 0x20; in al, 0x21
    ]

    const { thread, exits } = start(vm.addVcpu(code), table)
    await thread.ended

    expect(vm.view.getUint8(RESULT)).toBe(0x78)
    expect(vm.view.getUint16(RESULT + 2, true)).toBe(0x5678)
    expect(exits).toEqual(["in 20", "in 21", "hlt"])
  })

  test("the guest clears bits of a cell that it may read, as for an interrupt status register", async () => {
    const vm = createVm()
    const table = tableWith([
      { space: "mmio", start: 0x20060, end: 0x20064, read: "cell", write: "drop", cell: 1 },
      { space: "mmio", start: 0x20064, end: 0x20068, read: "ones", write: "clear-bits", cell: 1 },
    ])
    Atomics.store(table.cells, 1, 0b111)
    const code = [
      ...[0xb8, ...imm16(0x2000), 0x8e, 0xc0], //                      mov ax, 0x2000; mov es, ax
      ...[0x66, 0x26, 0xa1, ...imm16(0x60), 0xa3, ...imm16(RESULT)], // mov eax, [es:0x60]; mov [RESULT], ax
      ...[0x66, 0xb8, 0b101, 0, 0, 0], //                               mov eax, 0b101
      ...[0x66, 0x26, 0xa3, ...imm16(0x64), HLT], //                    mov [es:0x64], eax
    ]

    const { thread, exits } = start(vm.addVcpu(code), table)
    await thread.ended

    expect(exits).toEqual(["hlt"])
    expect(vm.view.getUint16(RESULT, true)).toBe(0b111)
    expect(Atomics.load(table.cells, 1)).toBe(0b010)
  })

  test("actions change while the guest runs", async () => {
    const vm = createVm()
    const table = tableWith([{ space: "pio", start: 0x20, end: 0x21, read: "ones", write: "drop" }])
    const code = [...[0xe4, 0x20], ...[0xe4, PORT], ...[0xe4, 0x20], ...[0xe4, PORT], ...[0xe4, 0x20], HLT]
    const actions = ["deliver", "ones"] as const
    let next = 0

    const { thread, exits } = start(vm.addVcpu(code), table, exit => {
      if (exit.reason === "io" && exit.port === PORT)
        table.setActions("pio", 0x20, { read: actions[next++] ?? "ones" })
    })
    await thread.ended

    expect(exits).toEqual(["in 10", "in 20", "in 10", "hlt"])
  })

  test("a sink keeps the order of bytes and of exits around them", async () => {
    const vm = createVm()
    const order: string[] = []
    const sink = { space: "pio", start: 0x20, end: 0x21, read: "ones", write: "sink" } as const
    const onBytes = (bytes: Uint8Array): void => void order.push(...Buffer.from(bytes).toString("latin1"))
    const table = tableWith([sink], { sinkSize: 64, onBytes })
    new Uint8Array(vm.memory.buffer).set(Buffer.from("string"), RESULT)
    const code = [
      ...[0xb0, 0x61, 0xe6, 0x20, 0xb0, 0x62, 0xe6, 0x20], // mov al, 'a'; out 0x20, al; 'b'
      ...[0xe4, PORT], //                                       in al, PORT
      ...[0xbe, ...imm16(RESULT), 0xb9, ...imm16(6)], //        mov si, RESULT; mov cx, 6
      ...[0xba, 0x20, 0, 0xfc, 0xf3, 0x6e], //                  mov dx, 0x20; cld; rep outsb
      ...[0xe7, 0x20, HLT], //                                  out 0x20, ax: no byte
    ]

    const { thread } = start(vm.addVcpu(code), table, exit => void order.push(describeExit(exit)))
    await thread.ended

    expect(order).toEqual(["a", "b", "in 10", ..."string", "out 20"])
  })

  test("a flood fills the sink, then waits for JavaScript, and loses nothing", async () => {
    const vm = createVm()
    const received: number[] = []
    const sink = { space: "pio", start: 0x20, end: 0x21, read: "ones", write: "sink" } as const
    const onBytes = (bytes: Uint8Array): void => void received.push(...bytes)
    const table = tableWith([sink], { sinkSize: 16, onBytes })
    const times = 2000

    const { thread } = start(vm.addVcpu(loop(times, 0x20, [0x88, 0xc8, OUT_DX_AL])), table, exit => {
      if (exit.reason === "io") received.push(...exit.data)
    })
    await thread.ended

    // mov al, cl; out dx, al
    expect(received).toEqual(Array.from({ length: times }, (_, i) => (times - i) & 0xff))
  })

  test("rows are replaced only while every vCPU is paused", async () => {
    const vm = createVm()
    const table = tableWith()
    const { thread, exits } = start(vm.addVcpu(loop(0, 0x30, [IN_AL_DX])), table)
    const row = { space: "pio", start: 0x30, end: 0x31, read: "deliver", write: "drop" } as const

    expect(() => table.replaceRows([row])).toThrow("pause every vCPU")
    await thread.pause()
    table.replaceRows([row])
    expect(exits).toEqual([])
    thread.resume()
    await until(() => exits.length > 0)

    expect(exits[0]).toBe("in 30")
    await thread.stop()
    table.replaceRows([])
  })
})

describe("pause", () => {
  test("takes a vCPU that spins with interrupts off out of the guest, and lets it go on", async () => {
    const vm = createVm()
    const vcpu = vm.addVcpu(COUNTING_SPIN)
    const { thread } = start(vcpu, tableWith())

    await until(() => vm.view.getUint16(RESULT, true) > 0)
    await thread.pause()
    const paused = vm.view.getUint16(RESULT, true)
    await new Promise(resolve => setTimeout(resolve, 20))
    expect(vm.view.getUint16(RESULT, true)).toBe(paused)
    expect(thread.state).toBe("paused")
    // Registers can be read now: they are what they are between two instructions of this loop.
    expect([0x1000, 0x1001, 0x1005]).toContain(Number(vcpu.getRegs().rip))
    thread.resume()

    await until(() => vm.view.getUint16(RESULT, true) !== paused)
  })

  test("takes a vCPU that is halted in the kernel", async () => {
    const vm = createVm({ irqchip: true })
    const { thread, exits } = start(vm.addVcpu([...COUNT, HLT, 0xeb, 0xfd]), tableWith())

    await until(() => vm.view.getUint16(RESULT, true) === 1)
    await thread.pause()
    thread.resume()
    await thread.pause()

    expect(thread.state).toBe("paused")
    expect(exits).toEqual([])
  })

  test("waits for the answer of an exit, and completes the instruction before", async () => {
    const vm = createVm()
    let answer = (): void => undefined
    const waiting = new Promise<void>(resolve => {
      answer = resolve
    })
    const vcpu = vm.addVcpu([0xe4, PORT, ...STORE_AL, HLT])
    const { thread, exits } = start(vcpu, tableWith(), exit => {
      if (exit.reason === "io") exit.data[0] = 0x77
      return waiting
    })

    await until(() => exits.length === 1)
    const paused = thread.pause()
    expect(thread.state).toBe("pausing")
    answer()
    await paused

    const { rip, rax } = vcpu.getRegs()
    expect(rip).toBe(0x1002n)
    expect(rax & 0xffn).toBe(0x77n)
    expect(vm.view.getUint8(RESULT)).toBe(0)
    thread.resume()
    await thread.ended
    expect(vm.view.getUint8(RESULT)).toBe(0x77)
  })

  test("a hundred pauses lose no exit and double none", async () => {
    const vm = createVm()
    const times = 3000
    let answered = 0
    let sum = 0
    // add [RESULT], ax; inc word [RESULT + 2]
    const body = [IN_AL_DX, 0xb4, 0, 0x01, 0x06, ...imm16(RESULT), 0xff, 0x06, ...imm16(RESULT + 2)]
    const { thread, exits } = start(vm.addVcpu(loop(times, PORT, body)), tableWith(), exit => {
      if (exit.reason !== "io") return
      exit.data[0] = answered++
      sum += exit.data[0]
    })

    for (let round = 0; round < 100; round++) {
      await thread.pause()
      expect(vm.view.getUint16(RESULT + 2, true)).toBeGreaterThanOrEqual(Math.max(0, answered - 1))
      thread.resume()
      if (round % 3 === 0) await new Promise(resolve => setTimeout(resolve, 1))
    }
    await thread.ended

    expect(exits.length).toBe(times + 1)
    expect(vm.view.getUint16(RESULT + 2, true)).toBe(times)
    expect(vm.view.getUint16(RESULT, true)).toBe(sum & 0xffff)
  })

  test("resume takes a pause back that has not come about", async () => {
    const { thread } = start(createVm().addVcpu(SPIN), tableWith())

    const paused = thread.pause()
    thread.resume()
    await paused
    expect(thread.state).toBe("running")
    await thread.pause()
    expect(thread.state).toBe("paused")
    thread.resume()
    thread.resume()
    expect(thread.state).toBe("running")
  })
})
