// Rows of a step that a workgroup of attention takes together.
//:let ROWS = 1
const ROWS: u32 = 1u;
