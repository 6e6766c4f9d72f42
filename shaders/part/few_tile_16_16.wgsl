// Tiles of 16 rows and 16 outputs.
//:let DOWN = 1
//:let ACROSS = 1
//:let PASSES = 4
const ROWS: u32 = 16u;
const OUTPUTS: u32 = 16u;
