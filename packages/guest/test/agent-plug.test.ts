// Volumes that come to containers that run, and go. Slots and their devices need a machine: test/kvm, test/e2e.
import { readFileSync } from "node:fs"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { GRPC_STATUS } from "../src/index.js"
import { HostAgent, readAll, START_TIMEOUT_MS, whyNoHostAgent } from "./host-agent.js"

const why = whyNoHostAgent()
const sh = (script: string) => ({ args: ["sh", "-c", script], env: ["PATH=/bin"] })
const VOLUME = "/run/tsvmm/volumes/7"

describe.skipIf(why !== undefined)(
  `agent: volumes of running containers${why ? ` (skipped: ${why})` : ""}`,
  { timeout: 60_000 },
  () => {
    let host: HostAgent
    let execs = 0
    beforeAll(async () => {
      host = await HostAgent.start()
      await host.run("one", sh("sleep 1000; true"))
      await host.run("two", sh("sleep 1000; true"))
    }, START_TIMEOUT_MS)
    afterAll(() => host.stop())

    const say = async (id: string, script: string) =>
      (await readAll((await host.exec(id, `e${++execs}`, sh(script))).stdout)).toString()
    const storage = { driver: "tmpfs", source: "x", fstype: "tmpfs", options: [], mountPoint: VOLUME }
    const mounts = () => readFileSync(`/proc/${host.pid}/mountinfo`, "utf8")

    test("a volume is shown in one after the other, in use, hidden, gone", async () => {
      const before = mounts()
      await host.client.mountVolume(storage)
      const view = { source: VOLUME, target: "/data/deep" }
      await host.client.showVolume({ ...view, containerId: "one" })
      await host.client.showVolume({ ...view, containerId: "two", readOnly: true })
      expect(await say("one", "echo shared > /data/deep/file; cat /data/deep/file")).toBe("shared\n")
      expect(
        await say("two", "cat /data/deep/file; echo x 2>/dev/null > /data/deep/no || echo refused"),
      ).toBe("shared\nrefused\n")
      const user = await host.exec("one", "user", sh("cd /data/deep; echo in; cat"))
      await new Promise(resolve => user.stdout.once("data", resolve))
      const hidden = host.client.hideVolume({ containerId: "one", target: "/data/deep" })
      await expect(hidden).rejects.toMatchObject({ status: GRPC_STATUS.FAILED_PRECONDITION })
      user.stdin.end()
      await user.exit
      for (const containerId of ["one", "two"])
        await host.client.hideVolume({ containerId, target: "/data/deep" })
      expect(await say("two", "ls /data/deep | wc -l")).toBe("0\n")
      await host.client.unmountVolume(VOLUME)
      expect(mounts()).toBe(before)
    })

    test("what is outside of the agent's own, not mounted, or no container is refused", async () => {
      const show = (over: object) =>
        host.client.showVolume({ containerId: "one", source: VOLUME, target: "/x", ...over })
      await expect(show({ source: "/etc" })).rejects.toMatchObject({ status: GRPC_STATUS.INVALID_ARGUMENT })
      await expect(show({ target: "x" })).rejects.toMatchObject({ status: GRPC_STATUS.INVALID_ARGUMENT })
      await expect(show({ containerId: "none" })).rejects.toMatchObject({ status: GRPC_STATUS.NOT_FOUND })
      await expect(host.client.mountVolume({ ...storage, mountPoint: "/etc" })).rejects.toMatchObject({
        status: GRPC_STATUS.INVALID_ARGUMENT,
      })
      await expect(host.client.unmountVolume("/proc")).rejects.toMatchObject({
        status: GRPC_STATUS.NOT_FOUND,
      })
    })

    test("slots and processors are of a guest of its own", async () => {
      const refused = { status: GRPC_STATUS.FAILED_PRECONDITION }
      await expect(host.client.bindDevice(0xd000_0000)).rejects.toMatchObject(refused)
      await expect(host.client.setProcessors(1)).rejects.toMatchObject(refused)
      await expect(host.client.setProcessors(0)).rejects.toMatchObject({
        status: GRPC_STATUS.INVALID_ARGUMENT,
      })
    })
  },
)
