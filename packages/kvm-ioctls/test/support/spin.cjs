// Three vCPUs by the raw addon, which is all that a child process or a Worker can load: two spin with interrupts off, one
// is parked on an exit. Then this thread ends, or is ended, with all of them running.
const { closeSync, openSync } = require("node:fs")
const { parentPort, workerData } = require("node:worker_threads")
const native = require("../../../native/build/Release/tsvmm_native.node")

const KVM_CREATE_VM = 0xae01
const KVM_GET_VCPU_MMAP_SIZE = 0xae04
const KVM_CREATE_VCPU = 0xae41
const KVM_SET_USER_MEMORY_REGION = 0x4020ae46
const KVM_SET_REGS = 0x4090ae82
const KVM_GET_SREGS = 0x8138ae83
const KVM_SET_SREGS = 0x4138ae84
const EXIT = 1

native.setErrorClass(
  class extends Error {
    constructor(errno, syscall) {
      super(`${syscall}: errno ${errno}`)
    }
  },
)
const kvm = openSync("/dev/kvm", "r+")
const vm = native.ioctl(kvm, KVM_CREATE_VM, 0n)
const memory = native.createMapping("spin", 0x10000, false)
const region = new BigUint64Array([0n, 0n, 0x10000n, memory.hostAddress])
native.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)
const table = new native.ExitTable(1, 0)
// Port 0x10 is delivered.
table.replaceRows([0, 0x10, 0x11, 0, 0, 0])

function start(index, code, onEvents) {
  const address = 0x1000 * (index + 1)
  new Uint8Array(memory.buffer).set(code, address)
  const fd = native.ioctl(vm, KVM_CREATE_VCPU, BigInt(index))
  const sregs = new DataView(new ArrayBuffer(312))
  native.ioctl(fd, KVM_GET_SREGS, sregs)
  // cs.base and cs.selector
  sregs.setBigUint64(0, 0n, true)
  sregs.setUint16(12, 0, true)
  native.ioctl(fd, KVM_SET_SREGS, sregs)
  const regs = new BigUint64Array(18)
  regs[16] = BigInt(address)
  regs[17] = 2n
  native.ioctl(fd, KVM_SET_REGS, regs)
  const run = native.mapDevice(fd, 0, native.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0n))
  const loop = new native.VcpuLoop(fd, run.buffer, table, `spin${index}`, onEvents)
  native.closeFd(fd)
  return loop
}

// cli; jmp to itself
const spinning = [0, 1].map(index => start(index, [0xfa, 0xeb, 0xfe], () => undefined))
// in al, 0x10
const parked = start(2, [0xe4, 0x10], events => {
  if (events !== EXIT) return
  if (workerData) parentPort.postMessage("parked")
  else process.stdout.write("parked\n")
  if (process.argv[2] === "exit") process.exit(7)
  if (process.argv[2] === "unref") for (const loop of [...spinning, parked]) loop.unref()
})
// The threads hold what they need.
native.closeFd(vm)
closeSync(kvm)
