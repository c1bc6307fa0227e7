/** Fields of the setup header that tests spoil, with their offsets and sizes in bytes. */
const FIELDS = {
  setup_sects: [0x1f1, 1],
  syssize: [0x1f4, 4],
  boot_flag: [0x1fe, 2],
  jump: [0x201, 1],
  header: [0x202, 4],
  version: [0x206, 2],
  loadflags: [0x211, 1],
  initrd_addr_max: [0x22c, 4],
  kernel_alignment: [0x230, 4],
  relocatable_kernel: [0x234, 1],
  xloadflags: [0x236, 2],
  cmdline_size: [0x238, 4],
  payload_offset: [0x248, 4],
  payload_length: [0x24c, 4],
  pref_address: [0x258, 8],
  init_size: [0x260, 4],
} as const

/** Name of a field of the setup header. */
export type SetupField = keyof typeof FIELDS

const PAYLOAD_OFFSET = 0x300
const SETUP_SECTS = 7

/** A well-formed bzImage of protocol 2.15 with a tiny "kernel", and any fields changed. */
export function bzImage(changed: Partial<Record<SetupField, number>> = {}, kernelSize = 8192): Uint8Array {
  const setupSize = (SETUP_SECTS + 1) * 512
  const bytes = new Uint8Array(setupSize + kernelSize)
  bytes.subarray(setupSize).fill(0xcc)
  bytes.set([0x1f, 0x8b], setupSize + PAYLOAD_OFFSET)
  const fields: Record<SetupField, number> = {
    setup_sects: SETUP_SECTS,
    syssize: kernelSize / 16,
    boot_flag: 0xaa55,
    jump: 0x6a,
    header: 0x53726448,
    version: 0x20f,
    loadflags: 1,
    initrd_addr_max: 0x7fff_ffff,
    kernel_alignment: 0x20_0000,
    relocatable_kernel: 1,
    xloadflags: 0x7f,
    cmdline_size: 2047,
    payload_offset: PAYLOAD_OFFSET,
    payload_length: kernelSize - PAYLOAD_OFFSET,
    pref_address: 0x100_0000,
    init_size: 0x10_0000,
    ...changed,
  }
  for (const [name, value] of Object.entries(fields)) putField(bytes, name as SetupField, value)
  return bytes
}

function putField(bytes: Uint8Array, name: SetupField, value: number): void {
  const [offset, size] = FIELDS[name]
  const le = Buffer.alloc(8)
  le.writeBigUInt64LE(BigInt(value))
  bytes.set(le.subarray(0, size), offset)
}
