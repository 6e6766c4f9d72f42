// Tiles of 32 rows and 32 outputs.
//:let DOWN = 2
//:let ACROSS = 2
//:let PASSES = 8
const ROWS: u32 = 32u;
const OUTPUTS: u32 = 32u;
