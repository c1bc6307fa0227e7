import { existsSync, readFileSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { join } from "node:path"
import { digestOf } from "../digest.js"

/** A registry on loopback. */
export interface LayoutRegistry extends AsyncDisposable {
  readonly host: string
}

const PATH = /^\/v2\/([a-z]+)\/(?:blobs|manifests)\/(?:sha256:)?([a-z0-9]+)$/

/** Starts a registry that has the one image of each layout in a folder, as `LAYOUT:latest`. */
export async function serveLayouts(folder: string): Promise<LayoutRegistry> {
  const server = createServer(({ method, url = "" }, response) => {
    const [, name = "", what = ""] = PATH.exec(url) ?? []
    const content = readContent(join(folder, name), what)
    if (!content) return response.writeHead(404).end()
    const isManifest = url.includes("/manifests/")
    response.writeHead(200, {
      "content-length": content.length,
      "content-type": isManifest ? JSON.parse(`${content}`).mediaType : "application/octet-stream",
      "docker-content-digest": digestOf(content),
    })
    return response.end(method === "HEAD" ? undefined : content)
  })
  await new Promise<void>(resolve => server.listen(0, "127.0.0.1", resolve))
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await new Promise(resolve => server.close(resolve))
    },
  }
}

function readContent(layout: string, what: string): Buffer | undefined {
  if (!existsSync(join(layout, "index.json"))) return undefined
  const [root] = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")).manifests
  const blob = join(layout, "blobs/sha256", what === "latest" ? root.digest.slice(7) : what)
  return existsSync(blob) ? readFileSync(blob) : undefined
}
