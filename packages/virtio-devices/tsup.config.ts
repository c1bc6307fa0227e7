import { packageBuild } from "../../tsup.preset.js"

export default packageBuild({
  index: "src/index.ts",
  "balloon/index": "src/balloon/index.ts",
  "block/index": "src/block/index.ts",
  "console/index": "src/console/index.ts",
  "fs/index": "src/fs/index.ts",
  "mem/index": "src/mem/index.ts",
  "net/index": "src/net/index.ts",
  "net/socket/index": "src/net/socket/index.ts",
  "net/tap/index": "src/net/tap/index.ts",
  "pmem/index": "src/pmem/index.ts",
  "rng/index": "src/rng/index.ts",
  "mmio/index": "src/mmio/index.ts",
  "vhost/index": "src/vhost/index.ts",
  "vhost-user/index": "src/vhost-user/index.ts",
  // The script of a thread, which is started by its path.
  "queue-thread": "src/vhost-user/threads/thread.ts",
  "testing/index": "src/testing/index.ts",
})
