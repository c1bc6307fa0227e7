/** The part of buffer-layout 1.2.2 (which ships no types) that `layout.ts` stands on. */
declare module "buffer-layout" {
  class Layout {
    constructor(span: number, property?: string)
    span: number
    property?: string
    decode(buffer: Buffer, offset?: number): unknown
    encode(source: unknown, buffer: Buffer, offset?: number): number
    replicate(property: string | undefined): Layout
  }
  type Scalar = (property?: string) => Layout
  const lib: {
    Layout: typeof Layout
    u8: Scalar
    u16: Scalar
    u32: Scalar
    s8: Scalar
    s16: Scalar
    s32: Scalar
    struct(fields: readonly Layout[], property?: string): Layout
    seq(element: Layout, count: number, property?: string): Layout
  }
  export default lib
}
