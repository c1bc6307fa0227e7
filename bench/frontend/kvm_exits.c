// The same work as the kvm-exits suite's, in C: a guest of a few bytes in real mode reads a port in blocks, and writes another
// one after each block. Prints microseconds for one exit, the median of blocks.
//
//   kvm_exits exits READS        blocks of READS, until half a second has passed
//   kvm_exits build TIMES MIB    microseconds from nothing to the first exit of a new machine of that size, the median of TIMES
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, EXITS_MIB = 128, CODE = 0x1000, READ_PORT = 0x10, MARK_PORT = 0x11, LEAST_BLOCKS = 5, MAX_BLOCKS = 4096 };

struct machine {
  int kvm, vm, vcpu, memory_fd;
  uint8_t *memory;
  size_t memory_size;
  struct kvm_run *run;
  int run_size;
};

static int check(int result, const char *what) {
  if (result < 0) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
  }
  return result;
}

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void write_code(uint8_t *memory, uint32_t reads) {
  // mov ecx, reads; next: in al, READ_PORT; dec ecx; jnz next; out MARK_PORT, al; jmp to the start
  uint8_t code[] = {0x66, 0xb9, 0, 0, 0, 0, 0xe4, READ_PORT, 0x66, 0x49, 0x75, 0xfa, 0xe6, MARK_PORT, 0xeb, 0xf0};
  memcpy(code + 2, &reads, sizeof reads);
  memcpy(memory + CODE, code, sizeof code);
}

static void create(struct machine *machine, uint32_t reads, size_t memory_size) {
  machine->memory_size = memory_size;
  machine->kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open");
  machine->vm = check(ioctl(machine->kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  machine->memory_fd = check(memfd_create("guest", MFD_CLOEXEC), "memfd_create");
  check(ftruncate(machine->memory_fd, (off_t)memory_size), "ftruncate");
  machine->memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, machine->memory_fd, 0);
  struct kvm_userspace_memory_region region = {.memory_size = memory_size, .userspace_addr = (uintptr_t)machine->memory};
  check(ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  write_code(machine->memory, reads);
  machine->vcpu = check(ioctl(machine->vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  machine->run_size = check(ioctl(machine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  machine->run = mmap(NULL, (size_t)machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, machine->vcpu, 0);
  struct kvm_sregs sregs;
  check(ioctl(machine->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  sregs.cs.base = sregs.cs.selector = 0;
  check(ioctl(machine->vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = CODE, .rflags = 2};
  check(ioctl(machine->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void destroy(struct machine *machine) {
  munmap(machine->run, (size_t)machine->run_size);
  munmap(machine->memory, machine->memory_size);
  int fds[] = {machine->vcpu, machine->vm, machine->kvm, machine->memory_fd};
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) close(fds[i]);
}

/** Answers reads until the guest writes to MARK_PORT. */
static void run_block(struct machine *machine) {
  for (;;) {
    check(ioctl(machine->vcpu, KVM_RUN, 0), "KVM_RUN");
    struct kvm_run *run = machine->run;
    errno = EPROTO;
    if (run->exit_reason != KVM_EXIT_IO) check(-1, "exit reason");
    if (run->io.port == MARK_PORT) return;
    memset((uint8_t *)run + run->io.data_offset, 0xff, (size_t)run->io.size * run->io.count);
  }
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *times, size_t count) {
  qsort(times, count, sizeof *times, by_value);
  return times[count / 2];
}

static double measure_exits(uint32_t reads) {
  static double times[MAX_BLOCKS];
  struct machine machine;
  create(&machine, reads, (size_t)EXITS_MIB * MIB);
  run_block(&machine);
  size_t blocks = 0;
  double from = now_us(), before = from;
  while (blocks < LEAST_BLOCKS || (before - from < 5e5 && blocks < MAX_BLOCKS)) {
    run_block(&machine);
    double now = now_us();
    times[blocks++] = (now - before) / (reads + 1);
    before = now;
  }
  destroy(&machine);
  return median(times, blocks);
}

static double measure_build(size_t count, size_t memory_size) {
  double *times = calloc(count, sizeof *times);
  for (size_t i = 0; i < count; i++) {
    struct machine machine;
    double from = now_us();
    create(&machine, 1, memory_size);
    check(ioctl(machine.vcpu, KVM_RUN, 0), "KVM_RUN");
    times[i] = now_us() - from;
    destroy(&machine);
  }
  return median(times, count);
}

int main(int argc, char **argv) {
  unsigned long count = argc >= 3 ? strtoul(argv[2], NULL, 10) : 0;
  unsigned long mib = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;
  if (count == 0) return 2;
  if (strcmp(argv[1], "exits") == 0) printf("{\"us\":%.4f}\n", measure_exits((uint32_t)count));
  else if (strcmp(argv[1], "build") == 0 && mib > 0) printf("{\"us\":%.3f}\n", measure_build(count, mib * MIB));
  else return 2;
  return 0;
}
