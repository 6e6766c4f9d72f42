//! Storage of keys and values: which pages exist, and which sequence holds them.
//!
//! Storage is apart from selection (which slots a query reads) and retention (what happens to old tokens): those are a
//! [`crate::policy::Policy`]'s.

mod pages;
mod pool;
mod sequence;

pub use pages::PageAllocator;
pub use pool::{KvPool, PoolSize};
pub use sequence::{Sequence, SequenceId};
