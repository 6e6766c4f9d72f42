// Rows of a step that a workgroup of attention takes together.
//:let ROWS = 4
const ROWS: u32 = 4u;
