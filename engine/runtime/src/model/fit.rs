//! Whether a model finds room on a device, asked before it is loaded.

use std::sync::Arc;

use longwave_contract::{Allocation, Backend, BackendError, BufferDesc, Tensor};

use super::config::ModelConfig;
use crate::engine::EngineOptions;
use crate::error::{DoesNotFit, Error};

/// Bytes that are allocated at a time to see whether there is room.
const PROBE: u64 = 256 << 20;

/// Bytes that a model and its engines will take.
pub(super) struct Fit<'a> {
    backend: &'a Arc<dyn Backend>,
    model: &'a str,
    options: &'a EngineOptions,
    weights: u64,
    cache: u64,
    work: u64,
}

impl<'a> Fit<'a> {
    /// What a model called `model` with `weights` bytes on the device takes together with its engines.
    pub fn new(
        backend: &'a Arc<dyn Backend>,
        (model, config): (&'a str, &ModelConfig),
        options: &'a EngineOptions,
        weights: u64,
    ) -> Self {
        Fit {
            backend,
            model,
            options,
            weights,
            cache: u64::from(options.engines) * options.cache_bytes(config),
            work: u64::from(options.engines) * options.work_bytes(config),
        }
    }

    /// Refuses what exceeds the memory that the device says is free.
    pub fn check(&self) -> Result<(), Error> {
        match self.backend.caps().memory {
            Some(free) if self.weights + self.cache + self.work > free => {
                Err(self.refusal(Some(free)))
            }
            _ => Ok(()),
        }
    }

    /// Allocates the weights, and makes sure that cache and working memory find room beside them: not every device says what is free.
    pub fn reserve(&self, weights: &[BufferDesc]) -> Result<Vec<Allocation>, Error> {
        let full = |error| match error {
            BackendError::OutOfMemory { .. } => self.refusal(None),
            other => Error::Backend(other),
        };
        let weights = weights
            .iter()
            .map(|desc| Allocation::new(self.backend, desc))
            .collect::<Result<Vec<_>, _>>()
            .map_err(full)?;
        let mut rest = self.cache + self.work;
        let mut held = Vec::new();
        while rest > 0 {
            let bytes = rest.min(PROBE);
            let desc = BufferDesc {
                label: "room for the cache".into(),
                bytes,
                row: Tensor::ALIGN,
            };
            held.push(Allocation::new(self.backend, &desc).map_err(full)?);
            rest -= bytes;
        }
        Ok(weights)
    }

    fn refusal(&self, free: Option<u64>) -> Error {
        Error::from(Box::new(DoesNotFit {
            model: self.model.to_owned(),
            device: self.backend.caps().device.clone(),
            weights: self.weights,
            cache: self.cache,
            tokens: self
                .options
                .cache_tokens
                .saturating_mul(self.options.engines),
            work: self.work,
            free,
        }))
    }
}
