// Sentences of the OCI image specification 1.1 about the image configuration, for whoever reads it.
import { describe, expect, test } from "vitest"
import { digestOf } from "../../src/digest.js"
import type { ImageConfig } from "../../src/spec/config.js"
import * as kit from "./kit.js"
import { type Clause, type Json, load, put } from "./kit.js"

/** A config document, and the code or what is read of it. */
type ConfigCase = Clause & { readonly config: (config: Json) => Json } & (
    | { readonly code: string }
    | { readonly read: Partial<ImageConfig> }
  )

const run = (change: Json) => (config: Json) => ({ ...config, config: change })
const bytes = (text: (config: Json) => string) => (config: Json) => Buffer.from(text(config))

const cases: readonly ConfigCase[] = [
  {
    at: "config.md, Properties",
    says: "Any OPTIONAL field MAY also be set to null, which is equivalent to being absent.",
    here: "null reads as absent",
    config: run({
      Env: null,
      Cmd: null,
      Entrypoint: null,
      User: null,
      Volumes: null,
      Labels: null,
      WorkingDir: null,
    }),
    read: { env: [], cmd: [], entrypoint: [], user: "", volumes: [], labels: {}, workingDir: "" },
  },
  {
    at: "config.md, Properties, config",
    says: "This field can be null, in which case any execution parameters should be specified at creation of the container.",
    here: "there are none",
    config: c => ({ ...c, config: null }),
    read: { env: [], cmd: [] },
  },
  {
    at: "config.md, Properties",
    says: "Any extra fields in the Image JSON struct are considered implementation specific and MUST be ignored by any implementations which are unable to interpret them.",
    here: "they are",
    config: c => ({ ...c, "com.example": [1], config: { Cmd: ["a"], OnBuild: ["x"], "com.example": {} } }),
    read: { cmd: ["a"] },
  },
  {
    at: "config.md, Properties",
    says: "Whitespace is OPTIONAL and implementations MAY have compact JSON with no whitespace.",
    here: "spread over lines it reads the same",
    config: bytes(c => JSON.stringify({ ...c, config: { Cmd: ["a"] } }, null, 4)),
    read: { cmd: ["a"] },
  },
  {
    at: "config.md, Properties, architecture",
    says: "implementations SHOULD understand, values listed in the Go Language document for GOARCH.",
    here: "an image for another one is refused",
    config: c => ({ ...c, architecture: "ppc64le" }),
    code: "platform-missing",
  },
  {
    at: "config.md, Properties, os",
    says: "implementations SHOULD understand, values listed in the Go Language document for GOOS.",
    here: "an image for another one is refused",
    config: c => ({ ...c, os: "windows" }),
    code: "platform-missing",
  },
  {
    at: "config.md, Properties, rootfs, type",
    says: "Implementations MUST generate an error if they encounter a unknown value while verifying or unpacking an image.",
    here: "they do",
    config: c => ({ ...c, rootfs: { ...c.rootfs, type: "tree" } }),
    code: "config-invalid",
  },
  {
    at: "config.md, Properties, rootfs",
    says: "The rootfs key references the layer content addresses used by the image.",
    here: "a config without it is refused",
    config: c => ({ ...c, rootfs: undefined }),
    code: "config-invalid",
  },
  {
    at: "config.md, Properties, rootfs, diff_ids",
    says: "An array of layer content hashes (DiffIDs), in order from first to last.",
    here: "one too many is refused",
    config: c => ({
      ...c,
      rootfs: { type: "layers", diff_ids: [...c.rootfs.diff_ids, c.rootfs.diff_ids[0]] },
    }),
    code: "config-invalid",
  },
  {
    at: "config.md, Terminology, Layer DiffID",
    says: "A layer DiffID is the digest over the layer's uncompressed tar archive",
    here: "a layer that unpacks to something else is refused",
    config: c => ({ ...c, rootfs: { type: "layers", diff_ids: [`sha256:${kit.ZEROS}`] } }),
    code: "digest-mismatch",
  },
  {
    at: "config.md, Properties, config, Env",
    says: "Entries are in the format of VARNAME=VARVALUE.",
    here: "they are kept as they are, a value may have more signs",
    config: run({ Env: ["PATH=/bin", "A=b=c d", "EMPTY="] }),
    read: { env: ["PATH=/bin", "A=b=c d", "EMPTY="] },
  },
  {
    at: "config.md, Properties, config, Env",
    says: "Entries are in the format of VARNAME=VARVALUE.",
    here: "one without a name is refused",
    config: run({ Env: ["=x"] }),
    code: "config-invalid",
  },
  {
    at: "config.md, Properties, config, Cmd",
    says: "If an Entrypoint value is not specified, then the first entry of the Cmd array SHOULD be interpreted as the executable to run.",
    here: "both are handed on for that",
    config: run({ Cmd: ["/bin/a", "b"] }),
    read: { entrypoint: [], cmd: ["/bin/a", "b"] },
  },
  {
    at: "config.md, Properties, config, ExposedPorts",
    says: "Its keys can be in the format of: port/tcp, port/udp, port",
    here: "all three are taken",
    config: run({ ExposedPorts: { "80/tcp": {}, "53/udp": {}, "8080": {} } }),
    read: { exposedPorts: ["8080", "80/tcp", "53/udp"] },
  },
  {
    at: "config.md, Properties, config, ExposedPorts",
    says: "Its keys can be in the format of: port/tcp, port/udp, port",
    here: "something else is refused",
    config: run({ ExposedPorts: { "http/tcp": {} } }),
    code: "config-invalid",
  },
  {
    at: "config.md, Properties, config, Volumes",
    says: "A set of directories describing where the process is likely to write data specific to a container instance.",
    here: "they are handed on",
    config: run({ Volumes: { "/data": {}, "/var/log": {} } }),
    read: { volumes: ["/data", "/var/log"] },
  },
  {
    at: "config.md, Properties, config, WorkingDir",
    says: "Sets the current working directory of the entrypoint process in the container.",
    here: "a relative one means nothing and is refused",
    config: run({ WorkingDir: "home" }),
    code: "config-invalid",
  },
  {
    at: "config.md, Properties, config, Labels",
    says: "Labels MUST use the annotation rules.",
    here: "a number is refused",
    config: run({ Labels: { "com.example": 1 } }),
    code: "config-invalid",
  },
  ...["SIGKILL", "SIGRTMIN+3"].map(
    (signal): ConfigCase => ({
      at: "config.md, Properties, config, StopSignal",
      says: "The signal can be a signal name in the format SIGNAME, for instance SIGKILL or SIGRTMIN+3.",
      here: `${signal} is taken`,
      config: run({ StopSignal: signal }),
      read: { stopSignal: signal },
    }),
  ),
  ...["alice", "1000", "alice:staff", "1000:100", "1000:staff", "alice:100"].map(
    (user): ConfigCase => ({
      at: "config.md, Properties, config, User",
      says: "all of the following are valid: user, uid, user:group, uid:gid, uid:group, user:gid.",
      here: `${user} is handed on`,
      config: run({ User: user }),
      read: { user },
    }),
  ),
  {
    at: "config.md, Properties, config, Memory",
    says: "This property is reserved for use, to maintain compatibility.",
    here: "neither it nor the other reserved ones matter",
    config: run({
      Memory: "much",
      MemorySwap: -1,
      CpuShares: 8,
      Healthcheck: { Test: ["NONE"] },
      Cmd: ["a"],
    }),
    read: { cmd: ["a"] },
  },
  {
    at: "config.md, Properties, history, empty_layer",
    says: "It is set to true if this history item doesn't correspond to an actual layer in the rootfs section",
    here: "history does not decide how many layers there are",
    config: c => ({ ...c, history: [{ created_by: "a" }, { created_by: "b", empty_layer: true }] }),
    read: {},
  },
]

describe("image spec: config", () => {
  test.each(cases.map(one => [kit.title(one), one] as const))("%s", async (_, one) => {
    const outcome = await load(layout => layout.index([put(layout, { config: one.config })]))
    if ("code" in one) expect(outcome).toEqual({ code: one.code })
    else expect("image" in outcome && outcome.image.config).toMatchObject(one.read)
  })

  test('config.md, Terminology, ImageID: "Each image\'s ID is given by the SHA256 hash of its configuration JSON." → whatever its spelling', async () => {
    let text = ""
    const config = bytes(c => {
      text = ` ${JSON.stringify(c)}\n`
      return text
    })
    const outcome = await load(layout => layout.index([put(layout, { config })]))
    expect("image" in outcome && outcome.image.configDigest).toBe(digestOf(text))
  })
})
