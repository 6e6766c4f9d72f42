//! The one paged-KV layout that every backend reads and writes.
//!
//! - A **slot** is `page * page size + lane` ([`Slot`]), the only address of a token's row.
//! - A **row** of the raw tier is `[K: heads x dim][V: heads x dim]` in f16 ([`RowShape`]): the vector `x = [K | V]` of the DeltaKV paper,
//!   so that a codec reads a token in one piece.
//! - A **tier** ([`Tier`]) is a kind of storage; each layer has one buffer per tier that it uses.
//! - A **view** ([`ViewDesc`] and its **entries**, [`Entry`]) says which rows a query reads, in position order. One `attend` serves dense
//!   attention (entries name pages) and every sparse policy (entries name slots).
//! - A **pick** ([`PickDesc`]) says which tokens of a view are ranked by an observer layer's attention and how many stay: the entries of
//!   those are made on the device, and form a view of their own.
//! - A **row descriptor** ([`RowDesc`]) says what each row of a step is: its token, sequence, position, slot, and view. Rows are ragged:
//!   prefill chunks, decode rows and drafted tokens share a step.
//!
//! - A **block** ([`LatentShape`]) holds the compressed tokens of a stretch of a sequence; a **store** ([`StoreDesc`]) says which of a
//!   sequence's tokens lie in blocks and which are raw. `attend` reads neither: what it needs is *restored* into scratch rows. `attend_stored` reads
//!   blocks of rotated codes as they are.
//!
//! What changes from step to step lies in device buffers with these layouts; a recording never does. All of them are `u32` words, the
//! same in Rust, WGSL (`shaders/part/layout.wgsl`) and CUDA (`cuda-kernels/part/layout.cuh`); a test compares the offsets.

mod entry;
mod latent;
mod pick;
mod row;
mod shape;

pub use entry::{Entry, Tier, ViewDesc};
pub use latent::{
    BLOCK, BlockDesc, ComponentDesc, EXACT_GROUP, GAIN_LATENTS, LatentShape, ReferenceShape,
    ScaleRule, StoreDesc,
};
pub use pick::PickDesc;
pub use row::RowDesc;
pub use shape::{KeySpace, PAGE, RowShape, Slot};
