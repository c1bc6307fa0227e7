import { expect, test } from "vitest"
import { parseChanges } from "./changes.js"

test("instructions read as in a Dockerfile; lists add up, of single values the last counts", () => {
  const changes = parseChanges([
    'CMD ["/bin/a", "b c"]',
    "entrypoint run --fast",
    "ENV A=1",
    'ENV B "two words"',
    "LABEL k=v",
    "LABEL l=w=x",
    "USER first",
    "USER 1000:1000",
    "WORKDIR /srv",
    "STOPSIGNAL SIGINT",
    "EXPOSE 80 53/udp",
    'VOLUME ["/data"]',
    "VOLUME /a /b",
  ])
  expect(changes).toEqual({
    cmd: ["/bin/a", "b c"],
    entrypoint: ["/bin/sh", "-c", "run --fast"],
    env: ["A=1", "B=two words"],
    labels: { k: "v", l: "w=x" },
    user: "1000:1000",
    workingDir: "/srv",
    stopSignal: "SIGINT",
    exposedPorts: ["80/tcp", "53/udp"],
    volumes: ["/data", "/a", "/b"],
  })
})

test.each(["RUN make", "CMD", "", 'CMD ["a", 1]', "CMD [a]", "ENV"])("%j is refused", text => {
  expect(() => parseChanges([text])).toThrow("invalid --change")
})
