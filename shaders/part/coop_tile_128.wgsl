// Tiles of 128 rows and 128 outputs, of which each of eight subgroups computes 64 by 32, 64 columns at a time.
//:let DOWN = 4
//:let ACROSS = 2
//:let PASSES = 4
//:let DEPTH = 4
const WORKGROUP: u32 = 256u;
const TILE: u32 = 128u;
const STEP: u32 = 64u;
const ACROSS: u32 = 2u;
