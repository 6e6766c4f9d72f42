// Tiles of 64 rows and 64 outputs, of which each of four subgroups computes 32 by 32, 32 columns at a time.
//:let DOWN = 2
//:let ACROSS = 2
//:let PASSES = 2
//:let DEPTH = 2
const WORKGROUP: u32 = 128u;
const TILE: u32 = 64u;
const STEP: u32 = 32u;
const ACROSS: u32 = 2u;
