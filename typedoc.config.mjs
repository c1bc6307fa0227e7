import { OptionDefaults } from "typedoc"

/** API documentation of every entry of every package, from the sources. */
export default {
  name: "ts-vmm",
  tsconfig: "tsconfig.json",
  entryPoints: [
    "packages/*/src/index.ts",
    "packages/guest/src/{artifacts,container-spec}.ts",
    "packages/kvm-ioctls/src/arm64.ts",
    "packages/virtio-devices/src/{block,console,mmio,rng,vhost-user,testing}/index.ts",
    "packages/vm-memory/src/{mmap,layout}.ts",
    "packages/vmm/src/superio/index.ts",
    "packages/vsock/src/testing/index.ts",
  ],
  exclude: ["**/*.test.ts"],
  out: "docs/api",
  readme: "docs/architecture.md",
  // `npm run typecheck` does that.
  skipErrorChecking: true,
  validation: { notExported: false, invalidLink: false },
  // protoc-gen-es writes it.
  blockTags: [...OptionDefaults.blockTags, "@generated"],
}
