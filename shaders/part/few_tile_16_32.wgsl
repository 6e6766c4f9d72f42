// Tiles of 16 rows and 32 outputs.
//:let DOWN = 1
//:let ACROSS = 2
//:let PASSES = 8
const ROWS: u32 = 16u;
const OUTPUTS: u32 = 32u;
