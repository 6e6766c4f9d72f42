//! Row descriptors: what each row of a step is.

use bytemuck::{Pod, Zeroable};

/// One row of a step, as it lies in the rows buffer: eight `u32` words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RowDesc {
    /// The token that enters the model.
    pub token: u32,
    /// The sequence that it belongs to.
    pub sequence: u32,
    /// Its absolute position, from 0.
    pub position: u32,
    /// The raw slot that takes its key and value.
    pub slot: u32,
    /// The view that its query reads.
    pub view: u32,
    /// The staged row that takes its key before the rotary embedding, and its value, where an op stages them.
    pub staged: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

impl RowDesc {
    /// Words of a descriptor: the columns of a rows tensor.
    pub const WORDS: u32 = 8;
}
