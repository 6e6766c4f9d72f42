//! Runs a model over calibration text and gathers what the fit needs of each layer.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use longwave_contract::kv::{BLOCK, PickDesc, RowDesc, ViewDesc};
use longwave_contract::kv::{Entry, PAGE, Tier};
use longwave_contract::op::{Linear, Observe};
use longwave_contract::{Allocation, Backend, BufferDesc, DType, Recording, Tensor};

use super::observers::Losses;
use crate::codec::rotated;
use crate::engine::{Engine, EngineOptions, Probe};
use crate::error::Error;
use crate::model::Model;
use crate::policy::{Budget, DeltaKv};

/// Tokens at the beginning of each window that are never compressed.
pub(crate) const SINKS: u32 = 8;

/// What an error of a logit counts for beside one of a value. To first order it would be 1; but errors of keys are shared by all that softmax
/// normalises, and much of what they move cancels. Measured: decision 7.
const KEY_SHARE: f64 = 0.15;

/// Tokens of a window from which on queries show what a layer attends to.
const RANKED_FROM: u32 = 768;

/// Tokens of a window up to which queries of every chunk do.
const RANKED_ALL: usize = 8192;

/// Queries of a chunk that show it.
const RANKED: u32 = 8;

/// What was seen of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerSample {
    /// Rows `[K | V]` before the rotary embedding, window after window, token after token.
    pub rows: Vec<Vec<f16>>,
    /// Weights of an error of each element, in units of relative output error; see [`weigh`].
    pub metric: Vec<f32>,
    /// Sums of squares of each query element over tokens.
    pub query_energy: Vec<f64>,
    /// Tokens that were seen.
    pub tokens: u64,
    /// For each window the weight of each token's error, 1 on average; none where nothing ranked it.
    pub attention: Vec<Vec<f32>>,
    /// For each token of the current window the squares of the shares that it was given, and how many queries saw it.
    pub given: Vec<(f64, u32)>,
}

/// What was seen of all layers.
pub(crate) struct Sample {
    pub layers: Vec<LayerSample>,
    pub losses: Losses,
}

/// Runs windows of tokens through a model, of which the first `ranked` show what layers attend to. `progress` is told how many tokens are done.
pub(crate) fn collect(
    backend: &Arc<dyn Backend>,
    model: &Arc<Model>,
    windows: &[Vec<u32>],
    ranked: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Sample, Error> {
    let config = model.config();
    let longest = windows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let options = EngineOptions {
        chunk: 512.min(longest.max(1)),
        cache_permille: 300,
        ..EngineOptions::single(longest.max(1))
    };
    // Nothing is ever old enough to be compressed; the codecs only make the engine go layer by layer.
    let means = vec![vec![0.0; config.shape.cols() as usize]; config.layers as usize];
    let budget = Budget {
        sink: SINKS,
        recent: u32::MAX - BLOCK,
        keep: 1,
    };
    let policy = DeltaKv::stored("calibration", budget, rotated(config.shape, &means, 4));
    let mut engine = Engine::new(
        Arc::clone(backend),
        Arc::clone(model),
        Arc::new(policy),
        options,
    )?;
    let mut sample = Sample {
        layers: vec![LayerSample::default(); config.layers as usize],
        losses: Losses::new(config.layers),
    };
    let step = engine.options().chunk;
    let mut ranker = Ranker::new(backend, model, longest)?;
    let mut done = 0;
    for (index, window) in windows.iter().enumerate() {
        for layer in &mut sample.layers {
            layer.rows.push(Vec::new());
        }
        let id = engine.start();
        let probe = &mut |engine: &Engine, probe: Probe| {
            let layer = &mut sample.layers[probe.layer as usize];
            layer.see(engine, &probe)?;
            // Of long windows not every chunk, so that what is kept of them stays small.
            let every = window.len().div_ceil(RANKED_ALL).max(1);
            let chunk = (probe.start / step) as usize;
            if index < ranked && chunk.is_multiple_of(every) {
                for (point, scores) in ranker.rank(engine, &probe)? {
                    layer.attend(&scores);
                    sample.losses.add(point, probe.layer, scores);
                }
            }
            Ok(())
        };
        let made = engine.prefill_probed(id, window, &mut |part| progress(done + part), probe);
        engine.end(id);
        made?;
        sample.losses.end_window();
        for layer in &mut sample.layers {
            layer.end_window();
        }
        done += window.len();
    }
    Ok(sample)
}

impl Sample {
    /// With the weights of each layer's elements.
    pub fn weighed(
        mut self,
        backend: &Arc<dyn Backend>,
        model: &Arc<Model>,
    ) -> Result<Self, Error> {
        let outputs = output_norms(backend, model)?;
        for (index, (layer, outputs)) in self.layers.iter_mut().zip(&outputs).enumerate() {
            layer.weigh(model, index, outputs)?;
        }
        Ok(self)
    }
}

impl LayerSample {
    /// The mean row after the sinks of each window.
    pub fn mean(&self, cols: usize) -> Vec<f32> {
        let mut sums = vec![0.0f64; cols];
        let mut row = vec![0.0f32; cols];
        let mut count = 0u64;
        for window in &self.rows {
            for halves in window.chunks_exact(cols).skip(SINKS as usize) {
                halves.convert_to_f32_slice(&mut row);
                for (sum, &value) in sums.iter_mut().zip(&row) {
                    *sum += f64::from(value);
                }
                count += 1;
            }
        }
        let share = 1.0 / count.max(1) as f64;
        sums.iter().map(|sum| (sum * share) as f32).collect()
    }

    /// Adds what a layer made of a chunk.
    fn see(&mut self, engine: &Engine, probe: &Probe) -> Result<(), Error> {
        let mut rows = read(&**engine.backend(), probe.staged)?;
        let halves: &[f16] = bytemuck::cast_slice(&rows);
        if halves.iter().any(|value| !value.is_finite()) {
            return Err(Error::Parameter(format!(
                "layer {} makes keys or values that are no numbers: the model's weights are broken",
                probe.layer
            )));
        }
        if let Some(window) = self.rows.last_mut() {
            window.extend_from_slice(halves);
        }
        rows = read(&**engine.backend(), probe.q)?;
        let queries: &[f32] = bytemuck::cast_slice(&rows);
        let width = probe.q.cols as usize;
        self.query_energy.resize(width, 0.0);
        for query in queries.chunks_exact(width) {
            for (energy, &value) in self.query_energy.iter_mut().zip(query) {
                *energy += f64::from(value).powi(2);
            }
        }
        self.tokens += u64::from(probe.rows);
        Ok(())
    }

    /// Adds the shares that a query gives the tokens after the sinks.
    ///
    /// To first order an error `e_i` of token `i` moves an output by `p_i e_i`: its square counts by that of the share.
    fn attend(&mut self, shares: &[f32]) {
        let tokens = SINKS as usize + shares.len();
        let known = self.given.len().max(tokens);
        self.given.resize(known, (0.0, 0));
        for ((sum, seen), share) in self.given[SINKS as usize..].iter_mut().zip(shares) {
            *sum += f64::from(*share).powi(2);
            *seen += 1;
        }
    }

    /// Makes weights of what the window's tokens were given.
    fn end_window(&mut self) {
        let means = self.given.iter().map(|(sum, seen)| match seen {
            0 => None,
            seen => Some(sum / f64::from(*seen)),
        });
        let means: Vec<Option<f64>> = means.collect();
        let seen: Vec<f64> = means.iter().flatten().copied().collect();
        let mean = seen.iter().sum::<f64>() / seen.len().max(1) as f64;
        let weight = |found: &Option<f64>| match found {
            Some(found) if mean > 0.0 => (found / mean) as f32,
            _ => 1.0,
        };
        self.attention.push(means.iter().map(weight).collect());
        self.given.clear();
    }

    /// Weighs the elements of a row by what an error of theirs does to attention's output, relative to its size, averaged over query heads.
    ///
    /// An error `e` of a key moves a logit by `scale * q . e`: per rotary pair, over its angles, by `scale^2 |q_pair|^2 |e_pair|^2 / 2` squared,
    /// which is the share of the output that it moves ([`KEY_SHARE`] of which is counted). An error of a value moves the output by `W_o e`, relative to the mean of
    /// `|W_o v|^2`.
    fn weigh(&mut self, model: &Model, index: usize, outputs: &[f64]) -> Result<(), Error> {
        let config = model.config();
        let (dim, kv_heads) = (
            config.shape.head_dim as usize,
            config.shape.kv_heads as usize,
        );
        let (width, group) = (
            config.shape.width() as usize,
            config.heads as usize / kv_heads,
        );
        let heads = f64::from(config.heads);
        let tokens = self.tokens.max(1) as f64;
        let cols = 2 * width;
        let mut squares = vec![0.0f64; cols];
        let mut row = vec![0.0f32; cols];
        let mut count = 0u64;
        for halves in self
            .rows
            .iter()
            .flat_map(|window| window.chunks_exact(cols))
        {
            halves.convert_to_f32_slice(&mut row);
            for (square, &value) in squares.iter_mut().zip(&row) {
                *square += f64::from(value).powi(2);
            }
            count += 1;
        }
        let norm = model.key_norm(index)?;
        let mut metric = vec![0.0f64; cols];
        for (kv_head, metric) in metric[..width].chunks_mut(dim).enumerate() {
            // A head norm divides by the head's size and multiplies by its weights.
            let size = squares[kv_head * dim..][..dim].iter().sum::<f64>()
                / (count.max(1) as f64 * dim as f64);
            for pair in 0..dim / 2 {
                let energy: f64 = (0..group)
                    .map(|head| (kv_head * group + head) * dim)
                    .map(|at| self.query_energy[at + pair] + self.query_energy[at + pair + dim / 2])
                    .sum();
                let weight = KEY_SHARE * energy / tokens / 2.0 / dim as f64 / heads;
                for element in [pair, pair + dim / 2] {
                    metric[element] = match &norm {
                        None => weight,
                        Some(norm) => weight * f64::from(norm[element]).powi(2) / size.max(1e-12),
                    };
                }
            }
        }
        for (kv_head, metric) in metric[width..].chunks_mut(dim).enumerate() {
            for (element, metric) in metric.iter_mut().enumerate() {
                *metric = (0..group)
                    .map(|head| outputs[(kv_head * group + head) * dim + element])
                    .sum();
            }
        }
        let size: f64 = metric[width..]
            .iter()
            .zip(&squares[width..])
            .map(|(weight, square)| weight * square / count.max(1) as f64)
            .sum();
        for weight in &mut metric[width..] {
            *weight /= size.max(1e-30);
        }
        // An element that nothing reads still has a weight, so that it can be divided by.
        let least = metric.iter().sum::<f64>() / cols as f64 * 1e-5;
        self.metric = metric
            .iter()
            .map(|weight| weight.max(least).max(1e-20) as f32)
            .collect();
        Ok(())
    }
}

/// A tensor's rows, where they are not padded.
fn read(backend: &dyn Backend, tensor: Tensor) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0u8; tensor.bytes() as usize];
    backend.read(tensor.buffer, tensor.offset, &mut bytes)?;
    Ok(bytes)
}

/// For each layer the squared norms of the columns of its output projection, found by projecting unit vectors.
fn output_norms(backend: &Arc<dyn Backend>, model: &Model) -> Result<Vec<Vec<f64>>, Error> {
    const ROWS: u32 = 256;
    let config = model.config();
    let (inner, width) = (config.q_width(), config.width);
    let alloc = |label: &str, dtype, rows, cols| {
        Allocation::new(backend, &BufferDesc::of(label, dtype, rows, cols))
    };
    let units = alloc("unit vectors", DType::F32, ROWS, inner)?;
    let outs = alloc("projected vectors", DType::F32, ROWS, width)?;
    let count = alloc("count", DType::U32, 1, 1)?;
    let a = Tensor::new(units.id(), DType::F32, ROWS, inner);
    let out = Tensor::new(outs.id(), DType::F32, ROWS, width);
    let mut norms = vec![Vec::new(); config.layers as usize];
    for first in (0..inner).step_by(ROWS as usize) {
        let rows = ROWS.min(inner - first);
        let mut values = vec![0.0f32; (ROWS * inner) as usize];
        for row in 0..rows {
            values[(row * inner + first + row) as usize] = 1.0;
        }
        backend.write(units.id(), 0, bytemuck::cast_slice(&values))?;
        backend.write(count.id(), 0, bytemuck::bytes_of(&rows))?;
        for (layer, norms) in norms.iter_mut().enumerate() {
            let mut recording = Recording::new("norms of an output projection");
            recording.push(Linear {
                a,
                weight: model.output_projection(layer),
                bias: None,
                count: Tensor::new(count.id(), DType::U32, 1, 1),
                out,
            })?;
            run(&**backend, &recording)?;
            let bytes = read(&**backend, Tensor { rows, ..out })?;
            let values: &[f32] = bytemuck::cast_slice(&bytes);
            norms.extend(values.chunks_exact(width as usize).map(|row| {
                row.iter()
                    .map(|value| f64::from(*value).powi(2))
                    .sum::<f64>()
            }));
        }
    }
    Ok(norms)
}

fn run(backend: &dyn Backend, recording: &Recording) -> Result<(), Error> {
    let plan = backend.prepare(recording)?;
    let done = backend.run(plan).and_then(|ticket| backend.wait(ticket));
    backend.release(plan);
    Ok(done?)
}

/// Ranks what queries of a chunk attend to.
struct Ranker {
    queries: Allocation,
    rows: Allocation,
    views: Allocation,
    entries: Allocation,
    picks: Allocation,
    count: Allocation,
    scores: Allocation,
    capacity: u32,
    model: Arc<Model>,
}

impl Ranker {
    fn new(backend: &Arc<dyn Backend>, model: &Arc<Model>, capacity: u32) -> Result<Self, Error> {
        let pages = capacity.div_ceil(PAGE).max(1);
        let alloc = |dtype, rows, cols| {
            Allocation::new(backend, &BufferDesc::of("ranking", dtype, rows, cols))
        };
        let ranker = Ranker {
            queries: alloc(DType::F32, RANKED, model.config().q_width())?,
            rows: alloc(DType::U32, RANKED, RowDesc::WORDS)?,
            views: alloc(DType::U32, RANKED, 4)?,
            entries: alloc(DType::U32, 1, pages)?,
            picks: alloc(DType::U32, RANKED, PickDesc::WORDS)?,
            count: alloc(DType::U32, 1, 1)?,
            scores: alloc(DType::F32, RANKED, capacity)?,
            capacity,
            model: Arc::clone(model),
        };
        let entries: Vec<Entry> = (0..pages)
            .filter_map(|page| Entry::new(Tier::Scratch, page))
            .collect();
        backend.write(ranker.entries.id(), 0, bytemuck::cast_slice(&entries))?;
        Ok(ranker)
    }

    /// For some positions of a chunk the largest share that any head of the query there gives each token after the sinks, up to the last [`PAGE`].
    fn rank(&mut self, engine: &Engine, probe: &Probe) -> Result<Vec<(u32, Vec<f32>)>, Error> {
        let backend = &**engine.backend();
        // Evenly spaced, the last of the chunk among them.
        let step = probe.rows.div_ceil(RANKED).max(1);
        let rows: Vec<u32> = (0..probe.rows)
            .rev()
            .step_by(step as usize)
            .filter(|row| probe.start + row >= RANKED_FROM)
            .collect();
        let (mut descs, mut views, mut picks) = (Vec::new(), Vec::new(), Vec::new());
        let bytes = probe.q.row_bytes();
        for (index, row) in (0..).zip(&rows) {
            let position = probe.start + row;
            descs.push(RowDesc {
                position,
                view: index,
                ..RowDesc::default()
            });
            views.push(ViewDesc {
                first: 0,
                length: position + 1,
                last: position,
                run: PAGE,
            });
            picks.push(PickDesc {
                row: index,
                first: SINKS,
                candidates: position + 1 - SINKS - PAGE,
                keep: 1,
            });
            let from = probe.q.offset + u64::from(*row) * bytes;
            let to = (self.queries.id(), u64::from(index) * bytes);
            backend.copy((probe.q.buffer, from), to, bytes)?;
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let count = rows.len() as u32;
        backend.write(self.rows.id(), 0, bytemuck::cast_slice(&descs))?;
        backend.write(self.views.id(), 0, bytemuck::cast_slice(&views))?;
        backend.write(self.picks.id(), 0, bytemuck::cast_slice(&picks))?;
        backend.write(self.count.id(), 0, bytemuck::bytes_of(&count))?;
        let table =
            |table: &Allocation, rows, cols| Tensor::new(table.id(), DType::U32, rows, cols);
        let config = self.model.config();
        let scores = Tensor::new(self.scores.id(), DType::F32, RANKED, self.capacity);
        let mut recording = Recording::new("ranking");
        recording.push(Observe {
            q: Tensor::new(self.queries.id(), DType::F32, RANKED, config.q_width()),
            kv: probe.scratch,
            rows: table(&self.rows, RANKED, RowDesc::WORDS),
            views: table(&self.views, RANKED, 4),
            entries: table(&self.entries, 1, self.capacity.div_ceil(PAGE).max(1)),
            picks: table(&self.picks, RANKED, PickDesc::WORDS),
            count: table(&self.count, 1, 1),
            shape: config.shape,
            scale: 1.0 / (config.shape.head_dim as f32).sqrt(),
            scores,
        })?;
        run(backend, &recording)?;
        let pitch = scores.row_bytes() as usize;
        let bytes = read(backend, scores)?;
        let ranked = rows.iter().zip(&picks).zip(bytes.chunks(pitch));
        Ok(ranked
            .map(|((row, pick), bytes)| {
                let values: &[f32] = bytemuck::cast_slice(bytes);
                let values = values[..pick.candidates as usize].to_vec();
                (probe.start + row, values)
            })
            .collect())
    }
}
