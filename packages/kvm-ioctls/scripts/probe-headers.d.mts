/** What linux/kvm.h says. */
export interface Probe {
  readonly version: string
  readonly constants: ReadonlyMap<string, bigint>
  readonly requests: ReadonlyMap<string, bigint>
  readonly structures: ReadonlyMap<
    string,
    { readonly size: number; readonly fields: ReadonlyMap<string, number> }
  >
}

export function headerTrees(root: string): { "x86-64"?: string[]; arm64?: string[] }
export function probeHeaders(includes: readonly string[]): Probe
