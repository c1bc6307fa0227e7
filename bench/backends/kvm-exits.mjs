// node kvm-exits.mjs native|js READS: a guest of a few bytes in real mode reads a port in blocks of READS, and writes
// another one after each block; reads are answered by the vCPU's thread, or here. Prints microseconds for one exit, the median of blocks.
// node kvm-exits.mjs build TIMES: microseconds from nothing to the first exit of a new machine, the median of TIMES.
// Its twin in C is ../frontend/kvm_exits.c.
import { ROOT } from "../../scripts/setup/paths.mjs"
import { median } from "../harness.mjs"

const { ExitTable, Mapping } = await import(`${ROOT}/packages/native/dist/index.js`)
const { Kvm, VcpuThread } = await import(`${ROOT}/packages/kvm-ioctls/dist/index.js`)

const MEMORY_SIZE = 128 * 2 ** 20
const CODE = 0x1000
const READ_PORT = 0x10
const MARK_PORT = 0x11
const LEAST_BLOCKS = 5
const MAX_BLOCKS = 4096

const nowUs = () => performance.now() * 1000

/** mov ecx, reads; next: in al, READ_PORT; dec ecx; jnz next; out MARK_PORT, al; jmp to the start */
function codeFor(reads) {
  const times = new Uint8Array(Uint32Array.of(reads).buffer)
  return [0x66, 0xb9, ...times, 0xe4, READ_PORT, 0x66, 0x49, 0x75, 0xfa, 0xe6, MARK_PORT, 0xeb, 0xf0]
}

/** A machine whose vCPU is ready for its first instruction; `read` is how reads of READ_PORT are answered. */
function create(reads, read, onExit) {
  const kvm = new Kvm()
  const vm = kvm.createVm()
  const memory = Mapping.create({ name: "guest", size: MEMORY_SIZE })
  vm.setUserMemoryRegion({ slot: 0, guestAddress: 0, size: MEMORY_SIZE, hostAddress: memory.hostAddress })
  new Uint8Array(memory.buffer).set(codeFor(reads), CODE)
  const vcpu = vm.createVcpu(0)
  const sregs = vcpu.getSregs()
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } })
  vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(CODE), rflags: 2n })
  const rows = [
    { space: "pio", start: READ_PORT, end: READ_PORT + 1, read, write: "drop" },
    { space: "pio", start: MARK_PORT, end: MARK_PORT + 1, read: "ones", write: "deliver" },
  ]
  const thread = new VcpuThread(vcpu, { index: 0, answers: new ExitTable({ rows }), onExit })
  return {
    thread,
    async close() {
      await thread.stop()
      for (const owner of [vcpu, vm, kvm, memory]) owner.close()
    },
  }
}

async function measureExits(reads, read) {
  const times = []
  let from = 0
  let before = 0
  const machine = create(reads, read, exit => {
    if (exit.port === READ_PORT) {
      exit.data.fill(0xff)
      return
    }
    const now = nowUs()
    if (from === 0) from = now
    else times.push((now - before) / (reads + 1))
    before = now
    const enough = times.length >= LEAST_BLOCKS && now - from >= 5e5
    if (enough || times.length === MAX_BLOCKS) void machine.thread.stop()
  })
  machine.thread.start()
  await machine.thread.ended
  await machine.close()
  return median(times)
}

async function measureBuild(count) {
  const times = []
  for (let i = 0; i < count; i++) {
    const from = nowUs()
    let machine
    await new Promise(resolve => {
      machine = create(1, "deliver", () => {
        times.push(nowUs() - from)
        resolve()
        return new Promise(() => undefined)
      })
      machine.thread.start()
    })
    await machine.close()
  }
  return median(times)
}

const [mode, count] = [process.argv[2], Number(process.argv[3])]
const measures = {
  native: () => measureExits(count, "ones"),
  js: () => measureExits(count, "deliver"),
  build: () => measureBuild(count),
}
process.stdout.write(`${JSON.stringify({ us: await measures[mode]() })}\n`)
