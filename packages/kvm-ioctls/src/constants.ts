/** The kernel's constants, under its names. Those of x86-64; those of arm64 are in the entry `@ts-vmm/kvm-ioctls/arm64`. */
export * from "./bindings/common.js"
export * from "./bindings/x86-64.js"
