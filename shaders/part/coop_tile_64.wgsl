// Tiles of 64 rows and 64 outputs, of which each subgroup computes 32 by 32.
//:let TILES = 2
//:let A_QUADS = 4
//:let WEIGHT_OCTETS = 2
const TILE: u32 = 64u;
