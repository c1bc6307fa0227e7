/** The kernel's constants, under its names. Those of x86-64; for arm64 see the entry `@ts-vmm/kvm-ioctls/arm64`. */
export * from "./bindings/common.js"
export * from "./bindings/x86-64.js"
