//! The buffers of the raw tier.

use std::sync::Arc;

use longwave_contract::kv::{PAGE, RowShape};
use longwave_contract::{Allocation, Backend, BufferDesc, DType, Tensor};

use super::PageAllocator;
use crate::error::Error;

/// One buffer per layer of raw rows, cut into pages that sequences hold.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<Allocation>,
    shape: RowShape,
    /// Which pages are free.
    pub pages: PageAllocator,
}

impl KvPool {
    /// Room for `tokens` tokens, rounded up to whole pages, in each of `layers` layers.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(
        backend: &Arc<dyn Backend>,
        layers: u32,
        shape: RowShape,
        tokens: u32,
    ) -> Result<Self, Error> {
        let pages = tokens.div_ceil(PAGE).max(1);
        let layers = (0..layers)
            .map(|layer| {
                let desc = BufferDesc::of(
                    format!("kv of layer {layer}"),
                    DType::F16,
                    pages * PAGE,
                    shape.cols(),
                );
                Allocation::new(backend, &desc)
            })
            .collect::<Result<_, _>>()?;
        Ok(KvPool {
            layers,
            shape,
            pages: PageAllocator::new(pages),
        })
    }

    /// The rows of a layer, `f16[slots, 2 * kv_heads * head_dim]`.
    pub fn layer(&self, layer: usize) -> Tensor {
        Tensor::new(
            self.layers[layer].id(),
            DType::F16,
            self.pages.pages() * PAGE,
            self.shape.cols(),
        )
    }

    /// Bytes that one page takes, all layers together.
    pub fn page_bytes(&self) -> u64 {
        u64::from(PAGE) * self.shape.raw_bytes() * self.layers.len() as u64
    }

    /// Bytes of the whole pool.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(Allocation::bytes).sum()
    }
}
