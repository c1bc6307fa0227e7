import { describe, expect, test } from "vitest"
import type { ImageError } from "../errors.js"
import { type ProxyEnvironment, parseProxy, proxyFor } from "./proxy-settings.js"

const PROXY = "http://proxy.example:3128"

/** The proxy for an address by the environment, without `http://`. */
function by(environment: ProxyEnvironment, url = "https://registry.example/v2/"): string | undefined {
  return proxyFor(new URL(url), {}, environment)?.url.host
}

describe("the environment, as golang.org/x/net/http/httpproxy reads it", () => {
  test.each<[ProxyEnvironment, string, string | undefined]>([
    [{}, "https://a.example", undefined],
    [{ HTTPS_PROXY: PROXY }, "https://a.example", "proxy.example:3128"],
    [{ HTTPS_PROXY: PROXY }, "http://a.example", undefined],
    [{ HTTP_PROXY: PROXY }, "http://a.example", "proxy.example:3128"],
    [{ HTTP_PROXY: PROXY }, "https://a.example", undefined],
    [{ https_proxy: PROXY }, "https://a.example", "proxy.example:3128"],
    [{ HTTPS_PROXY: PROXY, https_proxy: "http://other" }, "https://a.example", "proxy.example:3128"],
    [{ HTTPS_PROXY: "", https_proxy: "http://other" }, "https://a.example", "other"],
    [{ HTTPS_PROXY: "proxy.example:3128" }, "https://a.example", "proxy.example:3128"],
    [{ HTTPS_PROXY: "https://proxy.example" }, "https://a.example", "proxy.example"],
    [{ ALL_PROXY: PROXY }, "https://a.example", undefined],
    // This machine is never asked through another.
    [{ HTTPS_PROXY: PROXY }, "https://localhost:5000", undefined],
    [{ HTTPS_PROXY: PROXY }, "https://127.1.2.3:5000", undefined],
    [{ HTTPS_PROXY: PROXY }, "https://[::1]:5000", undefined],
  ])("%j for %s: %s", (environment, url, expected) => {
    expect(by(environment, url)).toBe(expected)
  })

  test.each([
    ["*", "https://a.example", true],
    ["b.example,*", "https://a.example", true],
    ["a.example", "https://a.example", true],
    [" A.Example ,", "https://a.example", true],
    ["a.example", "https://sub.a.example", true],
    ["a.example", "https://nota.example", false],
    [".a.example", "https://sub.a.example", true],
    [".a.example", "https://a.example", false],
    ["*.a.example", "https://sub.a.example", true],
    ["*.a.example", "https://a.example", false],
    ["a.example:443", "https://a.example", true],
    ["a.example:5000", "https://a.example", false],
    ["a.example:5000", "https://a.example:5000", true],
    [":443", "https://a.example", false],
    ["10.0.0.1", "https://10.0.0.1", true],
    ["10.0.0.1:5000", "https://10.0.0.1:5000", true],
    ["10.0.0.1:5000", "https://10.0.0.1:5001", false],
    ["10.0.0.0/8", "https://10.1.2.3", true],
    ["10.0.0.0/8", "https://11.1.2.3", false],
    ["10.0.0.0/99", "https://10.1.2.3", false],
    ["10.0.0.0/8", "https://ten.example", false],
    ["fd00::/8", "https://[fd00::1]", true],
    ["fd00::1", "https://[fd00::1]:5000", true],
    ["[fd00::1]:5000", "https://[fd00::1]:5000", true],
    ["0.1", "https://10.0.0.1", false],
    ["", "https://a.example", false],
  ])("NO_PROXY %j for %s: %s", (list, url, isDirect) => {
    expect(by({ HTTPS_PROXY: PROXY, NO_PROXY: list }, url) === undefined).toBe(isDirect)
    expect(by({ HTTPS_PROXY: PROXY, no_proxy: list }, url) === undefined).toBe(isDirect)
  })

  test("CVE-2016-5386: in a CGI program HTTP_PROXY is the client's word", () => {
    const environment = { HTTP_PROXY: PROXY, HTTPS_PROXY: PROXY, REQUEST_METHOD: "GET" }
    expect(() => by(environment, "http://a.example")).toThrow("HTTP_PROXY is not used in a CGI program")
    expect(by(environment)).toBe("proxy.example:3128")
  })
})

describe("the settings of a host", () => {
  const url = new URL("https://127.0.0.1:5000")

  test("go before the environment, for this machine too", () => {
    const environment = { HTTPS_PROXY: PROXY, NO_PROXY: "*" }
    expect(proxyFor(url, { proxy: "http://own" }, environment)?.url.host).toBe("own")
    expect(proxyFor(new URL("https://a.example"), { proxy: false }, { HTTPS_PROXY: PROXY })).toBeUndefined()
  })
})

describe("the address of a proxy", () => {
  test.each([
    ["http://a:b@p", "a:b"],
    ["http://a%40b:c%3Ad@p", "a@b:c:d"],
    ["http://a@p", "a:"],
    ["a:b@p:3128", "a:b"],
    ["http://a:100%@p", "a:100%"],
  ])("%s has credentials, which are not in its URL", (text, expected) => {
    const { url, authorization } = parseProxy(text, "proxy")
    expect(authorization).toBe(`Basic ${Buffer.from(expected).toString("base64")}`)
    expect(url.href).not.toContain("@")
  })

  test.each(["", "http://", "socks5://p:1080", "http://user:secret@[p", "file:///p"])(
    "%j is refused without a word of it",
    text => {
      let error: Partial<ImageError> = {}
      try {
        parseProxy(text, "HTTPS_PROXY")
      } catch (cause) {
        error = cause as ImageError
      }
      expect(error.code).toBe("registry-config")
      expect(error.message).toMatch(/^HTTPS_PROXY is/)
      expect(error.message).not.toContain("secret")
    },
  )
})
