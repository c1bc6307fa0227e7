import { basename } from "node:path"
import { BaseSequencer, type TestSpecification } from "vitest/node"

/** Seconds that a test file takes in the KVM test host, for those that take long. */
const SECONDS: Readonly<Record<string, number>> = {
  "kvm-e2e run.test.ts": 590,
  "kvm-e2e sandbox.test.ts": 280,
  "kvm-e2e posix-fs.test.ts": 260,
  "kvm-e2e bad-use.test.ts": 200,
  "kvm-e2e tap.test.ts": 190,
  "kvm-e2e copy-in.test.ts": 180,
  "kvm boot-matrix.test.ts": 170,
  "kvm variants.test.ts": 140,
  "kvm-e2e commit.test.ts": 140,
  "kvm-e2e attach-network.test.ts": 120,
  "kvm vhost.test.ts": 120,
  "kvm vhost-hostile.test.ts": 120,
  "kvm-e2e endings.test.ts": 120,
  "kvm-e2e roots.test.ts": 120,
  "kvm-e2e changes.test.ts": 100,
  "kvm-e2e volumes.test.ts": 90,
  "kvm-e2e image-memory.test.ts": 80,
  "kvm-e2e storage.test.ts": 75,
  "kvm dax.test.ts": 75,
  "kvm-e2e disks.test.ts": 70,
  "kvm hotplug.test.ts": 70,
  "kvm examples.test.ts": 60,
  "kvm-e2e tty.test.ts": 45,
  "kvm-e2e attach.test.ts": 40,
  "kvm-e2e devices.test.ts": 35,
  "kvm-e2e dax.test.ts": 35,
}
const OTHER_SECONDS = 10

const seconds = ({ project, moduleId }: TestSpecification) =>
  SECONDS[`${project.name} ${basename(moduleId)}`] ?? OTHER_SECONDS

/** Starts with the tests that take longest, and deals them out so that shards (scripts/kvm-tests.mjs) end together. */
export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const byId = [...files].sort((a, b) => (a.moduleId < b.moduleId ? -1 : 1))
    return byId.sort((a, b) => seconds(b) - seconds(a))
  }

  override async shard(files: TestSpecification[]): Promise<TestSpecification[]> {
    const { index, count } = this.ctx.config.shard ?? { index: 1, count: 1 }
    const shards = Array.from({ length: count }, () => ({ files: [] as TestSpecification[], seconds: 0 }))
    for (const file of await this.sort(files)) {
      const least = shards.reduce((a, b) => (b.seconds < a.seconds ? b : a))
      least.files.push(file)
      least.seconds += seconds(file)
    }
    return shards[index - 1]?.files ?? []
  }
}
