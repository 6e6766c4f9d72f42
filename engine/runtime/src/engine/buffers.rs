//! The buffers that ops work in.

use std::sync::Arc;

use longwave_contract::kv::{BLOCK, Entry, PAGE, Tier};
use longwave_contract::{Allocation, Backend, BufferDesc, DType, Tensor};

use super::EngineOptions;
use super::plans::Bucket;
use super::tables;
use crate::codec::{Inner, Placed};
use crate::error::Error;
use crate::model::{ChoiceTensors, ModelConfig};
use crate::policy::Budget;

/// The buffers that ops work in, each with room for a full step; the last one has the tokens that are chosen.
pub(super) struct Activations {
    pub buffers: Vec<Allocation>,
}

impl Activations {
    pub fn descs(options: &EngineOptions, config: &ModelConfig) -> [BufferDesc; 6] {
        let desc = |label: &str, rows, cols| BufferDesc::of(label, DType::F32, rows, cols);
        [
            desc("residual stream", options.chunk, config.width),
            desc("queries", options.chunk, config.q_width()),
            desc("attended", options.chunk, config.q_width()),
            desc("feed-forward", options.chunk, config.inner),
            desc("logits", options.sequences, config.vocabulary),
            BufferDesc::of("tokens", DType::U32, 1, options.sequences),
        ]
    }

    /// The tokens that are chosen by the logits of `rows` rows.
    pub fn tokens(&self, rows: u32) -> Tensor {
        Tensor::new(self.buffers[5].id(), DType::U32, 1, rows)
    }

    pub fn tensor(&self, index: usize, rows: u32, cols: u32) -> Tensor {
        Tensor::new(self.buffers[index].id(), DType::F32, rows, cols)
    }
}

/// The buffers in which a policy's layers choose what others read.
pub(super) struct Choice {
    scores: Allocation,
    entries: Allocation,
    /// Tokens that are chosen for a sequence at most.
    tokens: u32,
}

impl Choice {
    /// Scores of every token, and as many entries as the budget has, for each sequence.
    pub fn descs(options: &EngineOptions, budget: Budget) -> [BufferDesc; 2] {
        let tokens = budget.tokens().min(options.context);
        [
            BufferDesc::of("scores", DType::F32, options.sequences, options.context),
            BufferDesc::of("chosen entries", DType::U32, options.sequences, tokens),
        ]
    }

    pub fn new(
        backend: &Arc<dyn Backend>,
        options: &EngineOptions,
        budget: Budget,
    ) -> Result<Self, Error> {
        let [scores, entries] = Choice::descs(options, budget);
        Ok(Choice {
            scores: Allocation::new(backend, &scores)?,
            entries: Allocation::new(backend, &entries)?,
            tokens: budget.tokens().min(options.context),
        })
    }

    /// Tokens that are chosen for a sequence at most.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// From one sequence's entries to the next's.
    pub fn pitch(&self) -> u32 {
        self.tokens.next_multiple_of(4)
    }

    pub fn tensors(&self, bucket: Bucket, layout: &tables::Layout) -> ChoiceTensors {
        let picks = layout.first(tables::Region::Picks, bucket.rows);
        ChoiceTensors {
            picks,
            scores: Tensor::new(self.scores.id(), DType::F32, picks.rows, bucket.longest),
            chosen: Tensor::new(self.entries.id(), DType::U32, picks.rows, self.tokens),
            views: layout.whole(tables::Region::ChosenViews),
            longest: bucket.chosen,
            overlap: None,
        }
    }
}

/// Restored rows that a codec takes at a time.
pub(super) const TILE: u32 = 8192;

/// Blocks that are compressed at a time: a tile of tokens.
pub(super) const BATCH: u32 = TILE / BLOCK;

/// The buffers of policies that compress: scratch rows, and what one layer of a prompt needs.
pub(super) struct Layered {
    /// Rows that a decode step restores, which all layers share.
    scratch: Allocation,
    /// All rows of a prompt's layer, as attention reads them, where decode steps may run between two of its layers.
    prompt: Option<Allocation>,
    /// The pages of the scratch rows, in order.
    pages: Allocation,
    /// Rows of one layer before the rotary embedding: sinks, tail, and the prompt.
    staged: Allocation,
    /// The residual stream of a whole prompt.
    hidden: Allocation,
    /// Rows of a tile or a batch, and their latents.
    rows: Allocation,
    latents: Allocation,
    /// What inner layers of codecs work in, where there are any.
    inner: [Option<Allocation>; 3],
    sizes: Sizes,
}

/// Rows of each buffer.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    scratch: u32,
    prompt: u32,
    staged: u32,
    hidden: u32,
    rows: u32,
    cols: u32,
    rank: u32,
    width: u32,
}

impl Sizes {
    fn new(
        options: &EngineOptions,
        config: &ModelConfig,
        (sinks, tail): (u32, u32),
        restored: u32,
        rank: u32,
    ) -> Self {
        let context = options.context.next_multiple_of(PAGE);
        // With one sequence, nothing runs beside its prompt.
        let alone = options.sequences == 1;
        // What was raw before a prompt, and the prompt.
        let staged = sinks
            .saturating_add(tail)
            .min(options.context)
            .next_multiple_of(PAGE)
            + context
            + 2 * PAGE;
        let tile = context.saturating_mul(options.sequences).min(TILE);
        Sizes {
            scratch: match alone {
                true => context,
                // A page at least: no buffer is empty.
                false => restored.clamp(1, context).next_multiple_of(PAGE) * options.sequences,
            },
            prompt: if alone { 0 } else { context },
            staged,
            hidden: options.context,
            rows: tile.max(
                options
                    .context
                    .min(TILE)
                    .div_ceil(BLOCK)
                    .next_power_of_two()
                    * BLOCK,
            ),
            cols: config.shape.cols(),
            rank,
            width: config.width,
        }
    }

    /// Pages of scratch rows, or of a prompt's.
    fn pages(&self) -> u32 {
        self.scratch.max(self.prompt) / PAGE
    }

    /// Where a prompt has rows of its own.
    fn prompt_desc(&self) -> Option<BufferDesc> {
        let desc = BufferDesc::of("rows of a prompt", DType::F16, self.prompt, self.cols);
        (self.prompt > 0).then_some(desc)
    }

    fn descs(&self) -> [BufferDesc; 6] {
        let desc = |label: &str, dtype, rows, cols| BufferDesc::of(label, dtype, rows, cols);
        [
            desc("scratch rows", DType::F16, self.scratch, self.cols),
            desc("scratch pages", DType::U32, 1, self.pages()),
            desc("staged rows", DType::F16, self.staged, self.cols),
            desc(
                "residual stream of a prompt",
                DType::F32,
                self.hidden,
                self.width,
            ),
            desc("rows of a tile", DType::F32, self.rows, self.cols),
            desc("latents of a tile", DType::F32, self.rows, self.rank),
        ]
    }

    /// What the inner layers of codecs need: those of any layer that is compressed or restored.
    fn inner_descs(&self, codecs: &[Option<Placed>]) -> [Option<BufferDesc>; 3] {
        let most = |width: &dyn Fn(Inner) -> u32| {
            let widths = codecs.iter().flatten().map(|codec| width(codec.inner()));
            widths.max().unwrap_or(0)
        };
        [0, 1, 2].map(|index| {
            let width = most(&|inner| inner.encode[index].max(inner.restore[index]));
            let label = "inner layers of a codec";
            (width > 0).then(|| BufferDesc::of(label, DType::F32, self.rows, width))
        })
    }
}

impl Layered {
    /// Bytes that the buffers take, for latents as wide as rows.
    pub fn bytes(options: &EngineOptions, config: &ModelConfig) -> u64 {
        let tail = Budget::default().recent + BLOCK;
        let raw = (Budget::default().sink, tail);
        let restored = options.restored_rows;
        let sizes = Sizes::new(options, config, raw, restored, config.shape.cols());
        let descs = sizes.descs().into_iter().chain(sizes.prompt_desc());
        descs.map(|desc| desc.bytes).sum()
    }

    pub fn new(
        backend: &Arc<dyn Backend>,
        options: &EngineOptions,
        config: &ModelConfig,
        codecs: &[Option<Placed>],
        raw: (u32, u32),
        restored: u32,
    ) -> Result<Self, Error> {
        let ranks = codecs.iter().flatten().map(|codec| codec.shape().rank);
        let rank = ranks.max().unwrap_or(0).max(config.shape.cols());
        let sizes = Sizes::new(options, config, raw, restored, rank);
        let [scratch, pages, staged, hidden, rows, latents] =
            sizes.descs().map(|desc| Allocation::new(backend, &desc));
        let prompt = sizes.prompt_desc();
        let prompt = prompt.map(|desc| Allocation::new(backend, &desc));
        let inner = sizes.inner_descs(codecs).map(|desc| {
            let made = desc.map(|desc| Allocation::new(backend, &desc));
            made.transpose()
        });
        let [change, base, activated] = inner;
        let layered = Layered {
            inner: [change?, base?, activated?],
            scratch: scratch?,
            prompt: prompt.transpose()?,
            pages: pages?,
            staged: staged?,
            hidden: hidden?,
            rows: rows?,
            latents: latents?,
            sizes,
        };
        let entries: Vec<Entry> = (0..sizes.pages())
            .filter_map(|page| Entry::new(Tier::Scratch, page))
            .collect();
        backend.write(layered.pages.id(), 0, bytemuck::cast_slice(&entries))?;
        Ok(layered)
    }

    /// Scratch rows, `f16[slots, cols]`.
    pub fn scratch(&self) -> Tensor {
        Tensor::new(
            self.scratch.id(),
            DType::F16,
            self.sizes.scratch,
            self.sizes.cols,
        )
    }

    /// Rows of a prompt's layer by position, `f16[positions, cols]`.
    pub fn prompt(&self) -> Tensor {
        match &self.prompt {
            None => self.scratch(),
            Some(prompt) => {
                Tensor::new(prompt.id(), DType::F16, self.sizes.prompt, self.sizes.cols)
            }
        }
    }

    /// Entries that name the pages of the scratch rows, and of a prompt's, in order.
    pub fn scratch_pages(&self) -> Tensor {
        Tensor::new(self.pages.id(), DType::U32, 1, self.sizes.pages())
    }

    /// Rows of one layer before the rotary embedding.
    pub fn staged(&self) -> Tensor {
        Tensor::new(
            self.staged.id(),
            DType::F16,
            self.sizes.staged,
            self.sizes.cols,
        )
    }

    /// The residual stream of a whole prompt.
    pub fn hidden(&self) -> Tensor {
        Tensor::new(
            self.hidden.id(),
            DType::F32,
            self.sizes.hidden,
            self.sizes.width,
        )
    }

    /// Working memory for `rows` rows.
    pub fn rows(&self, rows: u32) -> Tensor {
        Tensor::new(self.rows.id(), DType::F32, rows, self.sizes.cols)
    }

    /// Working memory for the latents of as many.
    pub fn latents(&self, rows: u32) -> Tensor {
        Tensor::new(self.latents.id(), DType::F32, rows, self.sizes.rank)
    }

    /// Working memory for the inner layers of as many; codecs shape it.
    pub fn inner(&self, rows: u32) -> [Option<Tensor>; 3] {
        let tensor = |buffer: &Allocation| Tensor::new(buffer.id(), DType::F32, rows, 1);
        self.inner
            .each_ref()
            .map(|buffer| buffer.as_ref().map(tensor))
    }
}
