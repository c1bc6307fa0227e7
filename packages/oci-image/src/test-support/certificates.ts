import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** Certificates of authorities that nobody else knows, made by openssl; gone after disposal. */
export class TestCertificates implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "oci-image-tls-"))

  /** An authority of that name, which vouches for itself. */
  authority(name: string): void {
    const key = ["-newkey", "rsa:2048", "-nodes", "-keyout", `${name}.key`]
    this.#openssl("req", "-x509", ...key, "-out", `${name}.pem`, "-days", "2", "-subj", `/CN=${name}`)
  }

  /** A certificate of an authority. @param days - below zero has run out */
  certificate(name: string, authority: string, altName: string, days = 2): void {
    const request = ["-newkey", "rsa:2048", "-nodes", "-keyout", `${name}.key`, "-out", `${name}.csr`]
    this.#openssl("req", ...request, "-subj", `/CN=${name}`)
    writeFileSync(this.path("san"), `subjectAltName=${altName}`)
    const signer = ["-CA", `${authority}.pem`, "-CAkey", `${authority}.key`, "-CAcreateserial"]
    const own = ["-in", `${name}.csr`, "-out", `${name}.pem`, "-extfile", "san", "-days", `${days}`]
    this.#openssl("x509", "-req", ...own, ...signer)
  }

  path(file: string): string {
    return join(this.#folder, file)
  }

  /** What a server or a client shows. */
  pair(name: string): { cert: string; key: string } {
    return { cert: this.read(`${name}.pem`), key: this.read(`${name}.key`) }
  }

  read(file: string): string {
    return readFileSync(this.path(file), "utf8")
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #openssl(...args: string[]): void {
    execFileSync("openssl", args, { cwd: this.#folder, stdio: "ignore" })
  }
}
