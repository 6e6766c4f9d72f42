//! The buffers that hold keys and values.

use std::sync::Arc;

use longwave_contract::kv::{LatentShape, PAGE, RowShape};
use longwave_contract::{Allocation, Backend, BufferDesc, DType, Tensor};

use super::PageAllocator;
use crate::error::Error;

/// What one layer keeps.
#[derive(Debug)]
enum Store {
    /// Every token as a raw row.
    Raw(Allocation),
    /// Sinks and tails as raw rows before the rotary embedding, everything between in blocks.
    Coded {
        raw: Allocation,
        blocks: Allocation,
        shape: LatentShape,
    },
}

/// How much a pool has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSize {
    /// Tokens of all sequences together.
    pub tokens: u32,
    /// Pages of sinks and tails, in layers that compress.
    pub tail_pages: u32,
    /// Blocks, in layers that compress.
    pub blocks: u32,
}

/// The storage of all layers: raw rows in pages, and in layers that compress, pages of sinks and tails, and blocks. Pages and blocks are handed
/// out uniformly over layers of a kind.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<Store>,
    shape: RowShape,
    size: PoolSize,
    /// Which pages of layers that keep raw rows are free.
    pub pages: PageAllocator,
    /// Which pages of sinks and tails are free.
    pub tail: PageAllocator,
    /// Which blocks are free.
    pub blocks: PageAllocator,
}

impl KvPool {
    /// Room for `size` in each layer; `codecs` gives the blocks of those that compress.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(
        backend: &Arc<dyn Backend>,
        codecs: &[Option<LatentShape>],
        shape: RowShape,
        size: PoolSize,
    ) -> Result<Self, Error> {
        let pages = size.tokens.div_ceil(PAGE).max(1);
        let raw = |label: String, pages: u32| {
            let desc = BufferDesc::of(label, DType::F16, pages * PAGE, shape.cols());
            Allocation::new(backend, &desc)
        };
        let layers = (0..)
            .zip(codecs)
            .map(|(layer, codec): (u32, _)| {
                Ok(match codec {
                    None => Store::Raw(raw(format!("kv of layer {layer}"), pages)?),
                    Some(shape) => {
                        let label = format!("blocks of layer {layer}");
                        let desc = BufferDesc::of(label, DType::U32, size.blocks, shape.words());
                        Store::Coded {
                            raw: raw(format!("tails of layer {layer}"), size.tail_pages)?,
                            blocks: Allocation::new(backend, &desc)?,
                            shape: *shape,
                        }
                    }
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let count = |some: bool, pages| PageAllocator::new(if some { pages } else { 0 });
        let coded = codecs.iter().any(Option::is_some);
        Ok(KvPool {
            layers,
            shape,
            size,
            pages: PageAllocator::new(pages),
            tail: count(coded, size.tail_pages),
            blocks: count(coded, size.blocks),
        })
    }

    /// The raw rows of a layer, `f16[slots, 2 * kv_heads * head_dim]`: of all tokens, or of sinks and tails.
    pub fn raw(&self, layer: usize) -> Tensor {
        let (buffer, pages) = match &self.layers[layer] {
            Store::Raw(buffer) => (buffer, self.pages.pages()),
            Store::Coded { raw, .. } => (raw, self.size.tail_pages),
        };
        Tensor::new(buffer.id(), DType::F16, pages * PAGE, self.shape.cols())
    }

    /// The blocks of a layer that compresses.
    pub fn latents(&self, layer: usize) -> Option<Tensor> {
        match &self.layers[layer] {
            Store::Raw(_) => None,
            Store::Coded { blocks, shape, .. } => Some(Tensor::new(
                blocks.id(),
                DType::U32,
                self.size.blocks,
                shape.words(),
            )),
        }
    }

    /// Bytes of a page in all layers that keep raw rows.
    pub fn page_bytes(&self) -> u64 {
        let raw = self
            .layers
            .iter()
            .filter(|layer| matches!(layer, Store::Raw(_)));
        u64::from(PAGE) * self.shape.raw_bytes() * raw.count() as u64
    }

    /// Bytes of a page of sinks or tail in all layers that compress.
    pub fn tail_page_bytes(&self) -> u64 {
        let all = self.layers.len() as u64;
        u64::from(PAGE) * self.shape.raw_bytes() * all - self.page_bytes()
    }

    /// Bytes of a block in all layers that compress.
    pub fn block_bytes(&self) -> u64 {
        let words = self.layers.iter().map(|layer| match layer {
            Store::Raw(_) => 0,
            Store::Coded { shape, .. } => u64::from(shape.words()),
        });
        4 * words.sum::<u64>()
    }

    /// Bytes of the whole pool.
    pub fn bytes(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| match layer {
            Store::Raw(buffer) => buffer.bytes(),
            Store::Coded { raw, blocks, .. } => raw.bytes() + blocks.bytes(),
        });
        layers.sum()
    }
}
