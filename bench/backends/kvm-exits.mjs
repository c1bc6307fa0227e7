// node kvm-exits.mjs native|js|run READS: a guest of a few bytes in real mode reads a port in blocks of READS, and writes
// another one after each block. Reads are answered by the vCPU's thread, by JavaScript for that thread, or by JavaScript
// that runs the vCPU itself. Prints microseconds for one exit, the median of blocks.
// node kvm-exits.mjs build TIMES MIB: microseconds from nothing to the first exit of a new machine of that size, the median of TIMES.
// Its twin in C is ../frontend/kvm_exits.c.
import { ROOT } from "../../scripts/setup/paths.mjs"
import { median } from "../harness.mjs"

const { ExitTable, Mapping } = await import(`${ROOT}/packages/native/dist/index.js`)
const { Kvm, VcpuThread } = await import(`${ROOT}/packages/kvm-ioctls/dist/index.js`)

const MIB = 2 ** 20
const EXITS_MEMORY = 128 * MIB
const CODE = 0x1000
const READ_PORT = 0x10
const MARK_PORT = 0x11
const LEAST_BLOCKS = 5
const MAX_BLOCKS = 4096
const LEAST_US = 5e5

const nowUs = () => performance.now() * 1000

/** mov ecx, reads; next: in al, READ_PORT; dec ecx; jnz next; out MARK_PORT, al; jmp to the start */
function codeFor(reads) {
  const times = new Uint8Array(Uint32Array.of(reads).buffer)
  return [0x66, 0xb9, ...times, 0xe4, READ_PORT, 0x66, 0x49, 0x75, 0xfa, 0xe6, MARK_PORT, 0xeb, 0xf0]
}

/** A machine whose vCPU is ready for its first instruction. */
function create(reads, memorySize) {
  const kvm = new Kvm()
  const vm = kvm.createVm()
  const memory = Mapping.create({ name: "guest", size: memorySize })
  vm.setUserMemoryRegion({ slot: 0, guestAddress: 0, size: memorySize, hostAddress: memory.hostAddress })
  new Uint8Array(memory.buffer).set(codeFor(reads), CODE)
  const vcpu = vm.createVcpu(0)
  const sregs = vcpu.getSregs()
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } })
  vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(CODE), rflags: 2n })
  return {
    vcpu,
    close: () => {
      for (const owner of [vcpu, vm, kvm, memory]) owner.close()
    },
  }
}

/** Takes the time of each block, until there are enough of them. */
class Blocks {
  #from = 0
  #before = 0
  #times = []

  constructor(reads) {
    this.exits = reads + 1
  }

  /** A block has ended; the first one does not count. True when it was the last. */
  ended() {
    const now = nowUs()
    if (this.#from === 0) this.#from = now
    else this.#times.push((now - this.#before) / this.exits)
    this.#before = now
    const enough = this.#times.length >= LEAST_BLOCKS && now - this.#from >= LEAST_US
    return enough || this.#times.length === MAX_BLOCKS
  }

  median = () => median(this.#times)
}

/** `read` is how the vCPU's thread answers reads of READ_PORT. */
async function measureThread(reads, read) {
  const blocks = new Blocks(reads)
  const machine = create(reads, EXITS_MEMORY)
  const rows = [
    { space: "pio", start: READ_PORT, end: READ_PORT + 1, read, write: "drop" },
    { space: "pio", start: MARK_PORT, end: MARK_PORT + 1, read: "ones", write: "deliver" },
  ]
  const onExit = exit => {
    if (exit.port === READ_PORT) exit.data.fill(0xff)
    else if (blocks.ended()) void thread.stop()
  }
  const thread = new VcpuThread(machine.vcpu, { index: 0, answers: new ExitTable({ rows }), onExit })
  thread.start()
  await thread.ended
  await thread.stop()
  machine.close()
  return blocks.median()
}

function measureRun(reads) {
  const blocks = new Blocks(reads)
  const machine = create(reads, EXITS_MEMORY)
  for (;;) {
    const exit = machine.vcpu.run()
    if (exit.reason !== "io") throw new Error(`exit ${exit.reason}`)
    if (exit.port === READ_PORT) exit.data.fill(0xff)
    else if (blocks.ended()) break
  }
  machine.close()
  return blocks.median()
}

function measureBuild(count, memorySize) {
  const times = []
  for (let i = 0; i < count; i++) {
    const from = nowUs()
    const machine = create(1, memorySize)
    machine.vcpu.run()
    times.push(nowUs() - from)
    machine.close()
  }
  return median(times)
}

const [mode, count, mib] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])]
const measures = {
  native: () => measureThread(count, "ones"),
  js: () => measureThread(count, "deliver"),
  run: () => measureRun(count),
  build: () => measureBuild(count, mib * MIB),
}
process.stdout.write(`${JSON.stringify({ us: await measures[mode]() })}\n`)
