// Heads of 64 elements.
//:let BLOCKS = 4
//:let SUMS = 2
//:let TILE_QUADS = 4
const DIM: u32 = 64u;
