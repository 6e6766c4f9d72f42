// Heads of 128 elements.
//:let BLOCKS = 8
//:let SUMS = 4
//:let TILE_QUADS = 8
const DIM: u32 = 128u;
