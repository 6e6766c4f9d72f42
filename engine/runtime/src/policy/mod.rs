//! Policies: what each query may read, and what is kept.
//!
//! A policy holds no storage and runs nothing. It says what each layer does ([`Role`]), which rows the queries of a step read (a view),
//! and what becomes of old tokens after a step ([`Retention`]). One file per policy.

mod dense;

pub use dense::Dense;
use longwave_contract::kv::{Entry, ViewDesc};

use crate::kv::Sequence;

/// What a layer's attention does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Reads the rows that the policy's host-made view names.
    Dense,
}

/// What becomes of a sequence's old tokens after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retention {
    /// They stay as they are.
    KeepAll,
}

/// Decides what queries read and what is kept.
pub trait Policy: Send + Sync {
    /// The name by which the command line calls it.
    fn name(&self) -> &str;

    /// What a layer does.
    fn role(&self, layer: u32) -> Role;

    /// What becomes of a sequence's tokens once `length` of them are in the cache.
    fn retention(&self, length: u32) -> Retention;

    /// Appends the entries by which rows up to position `last` of a sequence read its cache, and describes them. The sequence's pages
    /// cover `last`.
    fn view(&self, sequence: &Sequence, last: u32, entries: &mut Vec<Entry>) -> ViewDesc;
}
