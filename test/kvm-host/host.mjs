// The KVM test host: a machine with real KVM, made of QEMU's emulation of an AMD processor with SVM. It sees this
// machine's files at the same paths; what it writes is lost with it. It has one processor: with two, about one run of
// the tests in three ended in a kernel that had seen another processor's writes to memory or code too late (a corrupt
// stack in the host, a triple fault in a guest). Who has more processors starts more hosts.
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { createConnection } from "node:net"
import { tmpdir } from "node:os"
import { fileURLToPath } from "node:url"
import { makeHostInitramfs } from "./initramfs.mjs"
import { onMessages, send, sendBytes } from "./messages.mjs"

const EXEC_SERVER = fileURLToPath(new URL("exec-server.mjs", import.meta.url))
const VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
const MEMORY = "6G"
const START_TIMEOUT_MS = 300_000
/** How much of the console an error quotes: a kernel panic with its registers and call trace. */
const CONSOLE_LINES = 60
/** Without the masked features a newer guest kernel dies of nested XSAVE sizes that disagree under emulation. */
const CPU = "EPYC,+svm,+npt,-xsave,-xsaveopt,-xsavec,-xgetbv1,-avx,-avx2,-fma,-f16c"

function qemuArguments(folder, kernel, initramfs) {
  return [
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
    ...["-M", "q35,memory-backend=ram", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", CPU],
    ...["-smp", "1", "-m", MEMORY, "-object", `memory-backend-memfd,id=ram,size=${MEMORY},share=on`],
    ...["-kernel", kernel.image, "-initrd", initramfs],
    ...["-append", "console=ttyS0 panic=-1 loglevel=5 mitigations=off random.trust_cpu=on tsc=reliable"],
    ...["-serial", `file:${folder}/console.log`],
    ...["-chardev", `socket,id=fs,path=${folder}/fs.sock`],
    ...["-device", "vhost-user-fs-pci,chardev=fs,tag=root"],
    ...["-chardev", `socket,id=exec,path=${folder}/exec.sock,server=on,wait=off`],
    ...["-device", "virtio-serial", "-device", "virtserialport,chardev=exec,name=kvm-host"],
    ...["-device", "virtio-rng-pci"],
    ...["-monitor", `unix:${folder}/monitor.sock,server=on,wait=off`],
  ]
}

/** A socket's flag in /proc/net/unix: it was not only bound, whoever connects is not refused (__SO_ACCEPTCON of linux/net.h). */
const ACCEPTS = "00010000"

function isListening(path) {
  const sockets = readFileSync("/proc/net/unix", "latin1").split("\n")
  return sockets.some(line => line.endsWith(` ${path}`) && line.split(/\s+/)[3] === ACCEPTS)
}

/** Resolves when somebody listens at `path`; rejects when `child` ends first. */
async function appears(path, child, what) {
  while (!isListening(path)) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`${what} ended: ${child.said.trim()}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

function start(command, args) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] })
  child.said = ""
  const listen = text => {
    child.said = (child.said + text).slice(-4000)
  }
  child.stdout.on("data", listen)
  child.stderr.on("data", listen)
  child.on("error", error => listen(error.message))
  return child
}

const ended = child =>
  child.exitCode !== null || child.signalCode !== null
    ? Promise.resolve()
    : new Promise(resolve => child.once("close", resolve))

/** QEMU's exit, its own words, and the machine's console: a panic of the host ends QEMU with 0. */
function howItEnded(qemu, consoleLines) {
  const how = qemu.signalCode ? `by ${qemu.signalCode}` : `exit code ${qemu.exitCode}`
  return [how, qemu.said.trim(), ...consoleLines].filter(line => line !== "").join("\n  ")
}

/** A started host. */
class KvmHost {
  #folder
  #children = []
  #socket
  #runs = new Map()
  #lastId = 0
  #ready

  /** @param {string} folder private, for sockets */
  constructor(folder) {
    this.#folder = folder
  }

  async boot(kernel) {
    const folder = this.#folder
    const initramfs = makeHostInitramfs(folder, kernel, `${process.execPath} ${EXEC_SERVER}`)
    const share = `${folder}/fs.sock`
    // Without cache=always every start of a program reads it anew: five times as long for node.
    const daemon = start(VIRTIOFSD, [
      `--socket-path=${share}`,
      ...["-o", "source=/,cache=always,sandbox=chroot,no_posix_lock,no_flock,xattr"],
    ])
    this.#children.push(daemon)
    await appears(share, daemon, "virtiofsd")
    const qemu = start("qemu-system-x86_64", qemuArguments(folder, kernel, initramfs))
    this.#children.push(qemu)
    await appears(`${folder}/exec.sock`, qemu, "QEMU")
    this.#socket = createConnection(`${folder}/exec.sock`)
    this.#socket.on("error", () => undefined) // QEMU's end is told below
    const ready = new Promise((resolve, reject) => {
      this.#ready = resolve
      ended(qemu).then(() => {
        const error = new Error(`the KVM test host ended: ${howItEnded(qemu, this.console())}`)
        for (const run of this.#runs.values()) run.reject(error)
        reject(error)
      })
      setTimeout(reject, START_TIMEOUT_MS, new Error("the KVM test host did not start")).unref()
    })
    onMessages(this.#socket, message => this.#onMessage(message))
    await ready
  }

  /**
   * Runs a command in the host.
   * @param {string[]} argv
   * @param {{ cwd?: string, env?: Record<string, string>, onOutput?: (name: "stdout" | "stderr", bytes: Buffer) => void }} options
   * @returns {{ exited: Promise<{ code: number | null, signal: string | null }>, write(bytes: Buffer): void,
   *   end(): void, kill(): void }}
   */
  run(argv, { cwd = process.cwd(), env = {}, onOutput = () => undefined } = {}) {
    this.#lastId += 1
    const id = this.#lastId
    const exited = new Promise((resolve, reject) => this.#runs.set(id, { resolve, reject, onOutput }))
    const path = { PATH: process.env.PATH, HOME: "/root", TMPDIR: "/tmp", LANG: "C.UTF-8" }
    send(this.#socket, { id, type: "start", argv, cwd, env: { ...path, ...env } })
    return {
      exited: exited.finally(() => this.#runs.delete(id)),
      write: bytes => sendBytes(this.#socket, id, "stdin", bytes),
      end: () => send(this.#socket, { id, type: "end" }),
      kill: () => send(this.#socket, { id, type: "kill" }),
    }
  }

  /** Resolves when the host has answered. */
  async ping() {
    this.#lastId += 1
    const id = this.#lastId
    send(this.#socket, { id, type: "ping" })
    await new Promise(resolve => this.#runs.set(id, { resolve, reject: resolve }))
    this.#runs.delete(id)
  }

  /** The last lines of the host's console. */
  console() {
    const log = `${this.#folder}/console.log`
    return existsSync(log) ? readFileSync(log, "latin1").trim().split("\n").slice(-CONSOLE_LINES) : []
  }

  /** Ends the host and what it was made of. */
  async stop() {
    this.#socket?.destroy()
    for (const child of this.#children) child.kill("SIGKILL")
    await Promise.all(this.#children.map(ended))
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #onMessage(message) {
    if (message.type === "ready") return this.#ready()
    const run = this.#runs.get(message.id)
    if (message.type === "pong") run?.resolve()
    else if (message.type === "exit") run?.resolve({ code: message.code, signal: message.signal })
    else run?.onOutput(message.type, Buffer.from(message.data, "base64"))
  }
}

/**
 * Boots a KVM test host.
 * @param {{ version: string, image: string, modules: string }} kernel of scripts/setup/stock-kernel.mjs
 * @returns {Promise<KvmHost>}
 */
export async function startKvmHost(kernel) {
  if (process.getuid() !== 0)
    throw new Error("the KVM test host shares the root file system through virtiofsd, which needs root")
  const host = new KvmHost(mkdtempSync(`${tmpdir()}/kvm-host-`))
  try {
    await host.boot(kernel)
    return host
  } catch (error) {
    await host.stop()
    throw error
  }
}
