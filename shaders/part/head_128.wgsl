// Heads of 128 elements.
//:let HALVES = 2
//:let TILE_QUADS = 16
const DIM: u32 = 128u;
