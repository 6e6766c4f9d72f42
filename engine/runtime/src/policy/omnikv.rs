//! Some layers observe which old tokens matter, the layers after them read only those.

use longwave_contract::kv::{Entry, ViewDesc};

use super::dense::Dense;
use super::{Budget, Policy, PolicyError, Role};
use crate::kv::Sequence;

/// Full layers unless others are named: the paper's for Llama-3.1-8B, of which every model has the first ones.
const FULL: [u32; 5] = [0, 1, 2, 8, 18];

/// Dynamic sparse attention in decode steps over a cache that keeps everything (OmniKV: the selection of DeltaKV, arXiv 2602.08005, without its compression).
///
/// *Full* layers attend to all tokens. A full layer whose successor is not full is an *observer*: what its heads attend to is ranked, and
/// the layers up to the next full layer read the sinks, the best of the history, and the tail only. Prompts are attended to densely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OmniKv {
    layers: u32,
    full: Vec<u32>,
    budget: Budget,
}

impl OmniKv {
    /// The policy for a model of `layers` layers; `full` names the full layers, `None` takes 0, 1, 2, 8 and 18.
    ///
    /// # Errors
    /// Layer 0 is not full, or a layer does not exist.
    pub fn new(layers: u32, full: Option<&[u32]>, budget: Budget) -> Result<Self, PolicyError> {
        let mut full = match full {
            None => FULL.into_iter().filter(|&layer| layer < layers).collect(),
            Some(full) => full.to_vec(),
        };
        full.sort_unstable();
        full.dedup();
        if full.first() != Some(&0) {
            return Err(PolicyError::FirstLayer);
        }
        if let Some(&layer) = full.iter().find(|&&layer| layer >= layers) {
            return Err(PolicyError::NoSuchLayer { layer, layers });
        }
        Ok(OmniKv {
            layers,
            full,
            budget,
        })
    }

    /// Whether a layer reads everything.
    pub fn is_full(&self, layer: u32) -> bool {
        self.full.binary_search(&layer).is_ok()
    }
}

impl Policy for OmniKv {
    fn name(&self) -> &str {
        "omnikv"
    }

    fn role(&self, layer: u32) -> Role {
        let leads = layer + 1 < self.layers && !self.is_full(layer + 1);
        match (self.is_full(layer), leads) {
            (true, true) => Role::Observe,
            (true, false) => Role::Dense,
            (false, _) => Role::Follow,
        }
    }

    fn budget(&self) -> Option<Budget> {
        Some(self.budget)
    }

    fn view(&self, sequence: &Sequence, last: u32, entries: &mut Vec<Entry>) -> ViewDesc {
        Dense.view(sequence, last, entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_full_layer_of_a_run_observes() {
        let policy = OmniKv::new(30, None, Budget::default()).expect("it is valid");
        let roles: Vec<Role> = (0..30).map(|layer| policy.role(layer)).collect();
        for (layer, role) in roles.iter().enumerate() {
            let expected = match layer {
                0 | 1 => Role::Dense,
                2 | 8 | 18 => Role::Observe,
                _ => Role::Follow,
            };
            assert_eq!(*role, expected, "layer {layer}");
        }
        let last = OmniKv::new(3, Some(&[2, 0]), Budget::default()).expect("it is valid");
        assert_eq!(
            [0, 1, 2].map(|layer| last.role(layer)),
            [Role::Observe, Role::Follow, Role::Dense]
        );
    }

    #[test]
    fn full_layers_are_checked() {
        let new = |full: &[u32]| OmniKv::new(4, Some(full), Budget::default());
        assert_eq!(new(&[1, 2]), Err(PolicyError::FirstLayer));
        assert_eq!(new(&[]), Err(PolicyError::FirstLayer));
        assert_eq!(
            new(&[0, 4]),
            Err(PolicyError::NoSuchLayer {
                layer: 4,
                layers: 4
            })
        );
    }
}
