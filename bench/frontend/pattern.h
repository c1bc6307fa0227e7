// What the front ends share: a file whose bytes can be checked anywhere, the clock, and the median.
#pragma once
#include <stddef.h>
#include <stdint.h>

// The eight bytes that stand at byte offset `at` of the file (splitmix64 of the position).
uint64_t pattern(uint64_t at);
// Writes a file of `bytes` bytes with the pattern. Returns 0.
int make_file(const char *path, uint64_t bytes);
// Nanoseconds of a clock that only goes forward.
uint64_t now(void);
// The middle of `count` samples, which it sorts.
uint32_t median(uint32_t *samples, size_t count);
