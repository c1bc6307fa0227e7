/** What the front ends read from a file that lies in the page cache: arguments, and which of their figures counts. */
export const READS = [
  {
    name: "4 KiB random read, depth 32",
    args: ["rand", 4096, 32],
    unit: "IOPS",
    better: "higher",
    figure: "iops",
  },
  {
    name: "4 KiB random read, depth 1",
    args: ["rand", 4096, 1],
    unit: "µs",
    better: "lower",
    figure: "medianUs",
  },
  {
    name: "256 KiB sequential read, depth 8",
    args: ["seq", 262144, 8],
    unit: "MB/s",
    better: "higher",
    figure: "bytesPerSecond",
    scale: 1e-6,
  },
]
