//! Old tokens are kept as residuals; most layers restore only those that a few others choose.

use std::sync::Arc;

use longwave_contract::kv::{BLOCK, Entry, PickDesc, ViewDesc};

use super::dense::Dense;
use super::omnikv::OmniKv;
use super::{Budget, Policy, PolicyError, Retention, Role};
use crate::codec::Codec;
use crate::kv::Sequence;

/// Residual compression of the cache with dynamic sparse attention (DeltaKV, arXiv 2602.08005, sections 6 to 9 of our notes on it).
///
/// In layers with a codec a sequence has sinks, which stay raw, then blocks of [`BLOCK`] compressed tokens, then a raw tail of `recent` to
/// `recent + BLOCK - 1` tokens (fewer before the first block, and where a sequence was cut within one). Full layers restore and read all of it, or read it as it is stored where that can be; the layers that follow an observer restore what it chose. Without a
/// selection every layer reads everything, which is what the quantisers `q8` and `q4` are.
#[derive(Clone, Debug)]
pub struct DeltaKv {
    name: &'static str,
    selection: Option<OmniKv>,
    budget: Budget,
    codecs: Vec<Option<Arc<dyn Codec>>>,
}

impl DeltaKv {
    /// The policy for a model with a layer for each of `codecs`. `full` names the full layers, as for [`OmniKv::new`]; only those may be without
    /// a codec.
    ///
    /// # Errors
    /// Layer 0 is not full, a layer does not exist, or one that follows has no codec.
    pub fn new(
        full: Option<&[u32]>,
        budget: Budget,
        codecs: Vec<Option<Arc<dyn Codec>>>,
    ) -> Result<Self, PolicyError> {
        let selection = OmniKv::new(codecs.len() as u32, full, budget)?;
        let lacks = |layer: u32, codec: &Option<_>| codec.is_none() && !selection.is_full(layer);
        if let Some((layer, _)) = (0..)
            .zip(&codecs)
            .find(|(layer, codec)| lacks(*layer, codec))
        {
            return Err(PolicyError::NoCodec { layer });
        }
        Ok(DeltaKv {
            name: "deltakv",
            selection: Some(selection),
            budget,
            codecs,
        })
    }

    /// A policy by which every layer stores its old tokens with a codec and reads all of them; of `budget`, `keep` does not matter.
    pub fn stored(name: &'static str, budget: Budget, codecs: Vec<Arc<dyn Codec>>) -> Self {
        DeltaKv {
            name,
            selection: None,
            budget,
            codecs: codecs.into_iter().map(Some).collect(),
        }
    }
}

impl Policy for DeltaKv {
    fn name(&self) -> &str {
        self.name
    }

    fn role(&self, layer: u32) -> Role {
        let selection = self.selection.as_ref();
        selection.map_or(Role::Dense, |selection| selection.role(layer))
    }

    /// The tail may be a block longer than `recent`.
    fn budget(&self) -> Option<Budget> {
        self.selection.as_ref().map(|_| Budget {
            recent: self.tail().saturating_add(1),
            ..self.budget
        })
    }

    /// Candidates are the compressed tokens; sinks and tail are always read.
    fn pick(&self, row: u32, sequence: &Sequence) -> PickDesc {
        let visible = sequence.len() + 1;
        let first = self.budget.sink.min(visible);
        PickDesc {
            row,
            first,
            candidates: sequence.compressed(),
            keep: self.budget.keep,
        }
    }

    fn retention(&self, length: u32, compressed: u32) -> Retention {
        let from = self.budget.sink.saturating_add(compressed);
        let buffer = length.saturating_sub(from);
        match buffer.saturating_sub(self.budget.recent) / BLOCK {
            0 => Retention::KeepAll,
            blocks => Retention::Compress(from..from + blocks * BLOCK),
        }
    }

    fn codec(&self, layer: u32) -> Option<&Arc<dyn Codec>> {
        self.codecs.get(layer as usize)?.as_ref()
    }

    fn sinks(&self) -> u32 {
        self.budget.sink
    }

    fn tail(&self) -> u32 {
        self.budget.recent.saturating_add(BLOCK - 1)
    }

    fn view(&self, sequence: &Sequence, last: u32, entries: &mut Vec<Entry>) -> ViewDesc {
        Dense.view(sequence, last, entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Transform;

    fn policy(layers: usize) -> DeltaKv {
        let budget = Budget {
            sink: 8,
            recent: 128,
            keep: 100,
        };
        let codec = Transform::identity(64, None).shared();
        let mut codecs = vec![Some(codec); layers];
        codecs[0] = None;
        DeltaKv::new(Some(&[0]), budget, codecs).expect("it is valid")
    }

    #[test]
    fn the_tail_has_one_to_two_times_recent_after_every_step() {
        let policy = policy(3);
        let mut compressed = 0;
        for length in 1..2000 {
            if let Retention::Compress(range) = policy.retention(length, compressed) {
                assert_eq!(range.start, 8 + compressed);
                assert_eq!(range.len() as u32 % BLOCK, 0);
                compressed += range.len() as u32;
            }
            let tail = length.saturating_sub(8 + compressed);
            assert!(tail <= policy.tail() && (compressed == 0 || tail >= 128));
        }
        // A whole prompt at once leaves the same.
        let Retention::Compress(range) = policy.retention(1999, 0) else {
            panic!("there is enough to compress");
        };
        assert_eq!(range, 8..8 + compressed);
    }

    #[test]
    fn only_compressed_tokens_are_ranked() {
        let policy = policy(3);
        let sequence = Sequence {
            tokens: vec![0; 700],
            blocks: vec![0, 1, 2, 3],
            ..Sequence::default()
        };
        let pick = policy.pick(0, &sequence);
        assert_eq!((pick.first, pick.candidates, pick.keep), (8, 512, 100));
        let most = policy.budget().map(|budget| budget.tokens());
        assert!(most >= Some(pick.length(701)));
    }

    #[test]
    fn following_layers_need_codecs() {
        let codec = Transform::identity(64, None).shared();
        let new = |codecs| DeltaKv::new(Some(&[0]), Budget::default(), codecs);
        assert!(new(vec![None, Some(Arc::clone(&codec))]).is_ok());
        assert_eq!(
            new(vec![Some(codec), None]).map(|_| ()),
            Err(PolicyError::NoCodec { layer: 1 })
        );
    }
}
