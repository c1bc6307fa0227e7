// A registry that misbehaves, catalogue I13: a pull ends right, or with one clear error.
import { once } from "node:events"
import type { ServerResponse } from "node:http"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { DEFAULT_LIMITS } from "../limits.js"
import { hostPlatform } from "../spec/platform.js"
import { codeOf } from "../test-support/images.js"
import { pull, TestClock, TestRegistry, testClient } from "../test-support/test-registry.js"

let registry: TestRegistry

beforeEach(async () => {
  registry = await TestRegistry.start()
})

afterEach(() => registry[Symbol.asyncDispose]())

const name = () => `${registry.host}/app:1`

/** Sends some of a body and ends the connection. */
function cutAfter(response: ServerResponse, bytes: Buffer): void {
  response.write(bytes, () => response.destroy())
}

async function pullCode(options = {}): Promise<string | undefined> {
  await using client = testClient(options)
  return await codeOf(() => pull(client, name()))
}

describe("a blob's stream", () => {
  test("I13: that breaks goes on from where it was", async () => {
    let cuts = 0
    registry.fault = (request, response, content) => {
      if (!content || !request.url?.includes(registry.layerPath) || cuts++ > 0) return false
      response.writeHead(200, { "content-length": content.length })
      cutAfter(response, content.subarray(0, 100_000))
      return true
    }
    await using client = testClient()
    expect(await pull(client, name())).toBe(registry.digest)
    expect(registry.requests.at(-1)?.headers.range).toMatch(/^bytes=[1-9]\d*-\d+$/)
  })

  test("I13: of a server that ignores the range is skipped to where it was", async () => {
    let cuts = 0
    registry.failAt(registry.layerPath, (response, _, content) => {
      response.writeHead(200, { "content-length": content.length })
      if (cuts++ > 0) response.end(content)
      else cutAfter(response, content.subarray(0, 100_000))
    })
    await using client = testClient()
    expect(await pull(client, name())).toBe(registry.digest)
    expect(cuts).toBe(2)
  })

  test("I13: that breaks at every answer ends, after as many tries as were allowed", async () => {
    registry.failAt(registry.layerPath, (response, _, content) => {
      response.writeHead(200, { "content-length": content.length })
      cutAfter(response, content.subarray(0, 1000))
    })
    expect(await pullCode()).toBe("registry-unavailable")
    expect(registry.count(registry.layerPath)).toBeLessThan(20)
  })

  test.each([
    ["another begin", (size: number) => `bytes 0-${size - 1}/${size}`],
    ["another size", (size: number) => `bytes 100-${size}/${size + 1}`],
    ["no sense", () => "bytes */*"],
  ])("I13: answered with a range of %s is refused", async (_, range) => {
    let cuts = 0
    registry.failAt(registry.layerPath, (response, request, content) => {
      if (cuts++ === 0) {
        response.writeHead(200, { "content-length": content.length })
        cutAfter(response, content.subarray(0, 100_000))
        return
      }
      const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1])
      response.writeHead(206, { "content-range": range(content.length) })
      response.end(content.subarray(from))
    })
    expect(await pullCode()).toBe("registry-protocol")
  })

  test.each([-1, 1])("I13: whose length is announced %i byte off is refused unread", async difference => {
    registry.failAt(registry.layerPath, (response, _, content) => {
      response.writeHead(200, { "content-length": content.length + difference })
      response.write(content.subarray(0, 10))
    })
    expect(await pullCode()).toBe("size-mismatch")
  })

  test("I13: without a length is read to its end", async () => {
    registry.failAt(registry.layerPath, (response, _, content) => {
      response.writeHead(200)
      response.end(content)
    })
    await using client = testClient()
    expect(await pull(client, name())).toBe(registry.digest)
  })

  test("I13: without an end is cut off at its size", async () => {
    let sent = 0
    registry.failAt(registry.layerPath, async (response, _, content) => {
      response.writeHead(200)
      for (let more = true; more && !response.destroyed; sent += content.length)
        if (!response.write(content)) more = await drained(response)
    })
    expect(await pullCode()).toBe("size-mismatch")
    expect(sent).toBeLessThan(64 * 2 ** 20)
  })

  test("I8: of other bytes is refused", async () => {
    registry.failAt(registry.layerPath, (response, _, content) => {
      response.end(Buffer.from(content).fill("y", 1000, 1001))
    })
    expect(await pullCode()).toBe("digest-mismatch")
  })

  test("I13: that drips is given up", async () => {
    const clock = new TestClock()
    registry.failAt(registry.layerPath, (response, _, content) => {
      response.writeHead(200, { "content-length": content.length })
      clock.step = 1000
      let at = 0
      const drip = () => {
        if (response.destroyed) return
        response.write(content.subarray(at, at + 1), () => setTimeout(drip, 1))
        at++
      }
      drip()
    })
    expect(await pullCode({ clock, idleTimeoutMs: 5000 })).toBe("registry-timeout")
  })

  test("I13: that stands still is asked for again", async () => {
    let stalls = 0
    registry.fault = (request, response, content) => {
      if (!content || !request.url?.includes(registry.layerPath) || stalls++ > 0) return false
      response.writeHead(200, { "content-length": content.length })
      response.write(content.subarray(0, 1000))
      return true
    }
    await using client = testClient({ idleTimeoutMs: 200 })
    expect(await pull(client, name())).toBe(registry.digest)
  })
})

describe("a server in trouble", () => {
  test.each([
    [429, "registry-rate-limited"],
    [500, "registry-unavailable"],
    [503, "registry-unavailable"],
  ])("I13: that answers %i for good is given up after five tries", async (status, code) => {
    registry.failAt("/v2/", response => response.writeHead(status).end())
    const clock = new TestClock()
    expect(await pullCode({ clock })).toBe(code)
    expect(registry.requests).toHaveLength(5)
    expect(clock.sleeps).toEqual([500, 1000, 2000, 4000])
  })

  test("I13: that answers 503 for a while is waited for", async () => {
    let storm = 3
    registry.fault = (_, response) => {
      if (storm-- <= 0) return false
      response.writeHead(503).end()
      return true
    }
    await using client = testClient()
    expect(await pull(client, name())).toBe(registry.digest)
  })

  test.each([
    ["seconds", "7", 7000],
    ["seconds beyond all patience", "999999", 60_000],
    ["nothing that could be understood", "soon", 500],
    ["a date that is over", "Wed, 21 Oct 2015 07:28:00 GMT", 500],
  ])("I13: Retry-After with %s", async (_, value, expected) => {
    let isFirst = true
    registry.fault = (_, response) => {
      if (!isFirst) return false
      isFirst = false
      response.writeHead(429, { "retry-after": value }).end()
      return true
    }
    const clock = new TestClock()
    await using client = testClient({ clock })
    await pull(client, name())
    expect(clock.sleeps).toEqual([expected])
  })

  test("I13: that never answers", async () => {
    registry.failAt("/v2/", () => undefined)
    expect(await pullCode({ idleTimeoutMs: 100, attempts: 1 })).toBe("registry-timeout")
  })

  test("that is not there", async () => {
    await using gone = await TestRegistry.start()
    const { host } = gone
    await gone[Symbol.asyncDispose]()
    await using client = testClient()
    expect(await codeOf(() => pull(client, `${host}/app:1`))).toBe("registry-unavailable")
  })

  test("I13: that sends headers without end", async () => {
    registry.failAt("/v2/", response => response.writeHead(200, { "x-long": "x".repeat(100_000) }).end())
    expect(await pullCode()).toBe("registry-protocol")
  })

  test("a signal ends the waiting, with its own reason", async () => {
    const stop = new AbortController()
    registry.failAt("/v2/", () => stop.abort(new Error("enough")))
    await using client = testClient()
    await expect(pull(client, name(), stop.signal)).rejects.toThrow("enough")
  })
})

describe("a manifest", () => {
  test("I9: larger than a document may be is refused", async () => {
    registry.failAt("/manifests/", response => {
      response.writeHead(200, { "content-type": "application/vnd.oci.image.manifest.v1+json" })
      response.end(Buffer.alloc(5 * 2 ** 20, " "))
    })
    expect(await pullCode()).toBe("limit")
  })

  test("I8: of another digest than is announced is refused", async () => {
    registry.failAt("/manifests/", (response, request, content) => {
      const type = "application/vnd.oci.image.manifest.v1+json"
      const digest = `sha256:${"0".repeat(64)}`
      if (request.method === "HEAD") response.writeHead(405).end()
      else response.writeHead(200, { "content-type": type, "docker-content-digest": digest }).end(content)
    })
    expect(await pullCode()).toBe("digest-mismatch")
  })

  test("I8: is what a digest in the name says, whatever the tag", async () => {
    await using client = testClient()
    expect(await pull(client, `${registry.host}/app:none@${registry.digest}`)).toBe(registry.digest)
    expect(registry.count("/manifests/none", "HEAD")).toBe(0)
    registry.failAt("/manifests/", (response, _, content) => {
      const headers = { "content-type": "application/vnd.oci.image.manifest.v1+json" }
      response.writeHead(200, headers).end(Buffer.concat([content, Buffer.from(" ")]))
    })
    expect(await codeOf(() => pull(client, `${registry.host}/app@${registry.digest}`))).toMatch(
      /limit|mismatch/,
    )
  })

  test("of a server that does not say what it is, says so itself", async () => {
    registry.failAt("/manifests/", (response, _, content) => {
      response.writeHead(200, { "content-type": "application/json" }).end(content)
    })
    await using client = testClient()
    expect(await pull(client, name())).toBe(registry.digest)
  })

  test("I9: that is none is refused", async () => {
    registry.failAt("/manifests/", response => {
      response.writeHead(200, { "content-type": "text/html" }).end("<html>")
    })
    expect(await pullCode()).toBe("media-type")
  })

  test("that is in the store already costs one HEAD", async () => {
    await using client = testClient()
    await using source = client.source(name())
    const found = await source.locate({ platform: hostPlatform(), limits: DEFAULT_LIMITS })
    expect(found.digest).toBe(registry.digest)
    expect(registry.requests.map(({ method }) => method)).toEqual(["HEAD"])
  })
})

/** Waits for room, or for the end; says whether there is still somebody to write to. */
async function drained(response: ServerResponse): Promise<boolean> {
  const stop = new AbortController()
  await Promise.race(["drain", "close"].map(event => once(response, event, { signal: stop.signal })))
  stop.abort()
  return !response.destroyed
}
