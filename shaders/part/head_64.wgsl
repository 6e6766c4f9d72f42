// Heads of 64 elements.
//:let HALVES = 1
//:let TILE_QUADS = 8
const DIM: u32 = 64u;
