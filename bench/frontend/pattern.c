#define _GNU_SOURCE
#include "pattern.h"

#include "vhost_user.h"

#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

uint64_t pattern(uint64_t at) {
  uint64_t z = at / 8 * 0x9e3779b97f4a7c15ull + 0x1234567;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

int make_file(const char *path, uint64_t bytes) {
  static uint64_t block[1 << 14];
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) die(path);
  for (uint64_t at = 0; at < bytes; at += sizeof block) {
    for (size_t word = 0; word < sizeof block / 8; word++) block[word] = pattern(at + word * 8);
    size_t length = bytes - at < sizeof block ? bytes - at : sizeof block;
    if (write(fd, block, length) != (ssize_t)length) die(path);
  }
  return close(fd);
}

static int by_value(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

uint32_t median(uint32_t *samples, size_t count) {
  qsort(samples, count, sizeof *samples, by_value);
  return count == 0 ? 0 : samples[count / 2];
}
