// Tiles of 128 rows and 128 outputs, of which each subgroup computes 64 by 64.
//:let TILES = 4
//:let A_QUADS = 8
//:let WEIGHT_OCTETS = 4
const TILE: u32 = 128u;
