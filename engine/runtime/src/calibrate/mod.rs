//! Calibration: fits a codec to a model by running it over text. No training, no gradients.

mod collect;
mod fit;
mod observers;
mod residual;
mod text;

use std::sync::Arc;

use longwave_contract::Backend;
use longwave_contract::kv::{BLOCK, ReferenceShape};
use rayon::prelude::*;

use crate::codec::{LayerReport, ModelCodec, check_width};
use crate::error::Error;
use crate::model::Model;
use collect::{SINKS, collect};
use fit::{Candidate, Fit};
use residual::blocks_of;
pub use text::write_text;

/// Counts the changes of what calibration finds in the same text, so that codecs which were kept can be told from those that it would make now.
pub const METHOD: u32 = 2;

/// References that are tried for each layer unless others are asked for.
///
/// On the text of the calibration a transform without references loses least at every size, and would always be chosen; on another kind of
/// text it loses twice as much as one with a reference every 16 tokens (decision 7). So references are the default.
const REFERENCES: [Option<ReferenceShape>; 1] = [Some(ReferenceShape {
    stride: 16,
    neighbours: 4,
})];

/// Tokens drawn evenly from the vocabulary on which a model is run besides, and of each window of them: what a text lacks must not be left without bits.
const DRAWN: (usize, usize) = (4096, 1024);

/// How much more an error of the first layer counts than one of the last, as an exponent: it passes through all others.
const DEPTH: f64 = 1.0;

/// What calibration is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrateOptions {
    /// Bytes of a compressed token over those of its raw rows, all layers together.
    pub bytes: f64,
    /// Tokens of each window at most.
    pub window: usize,
    /// Tokens of the text that are used at most.
    pub tokens: usize,
    /// References that are tried for each layer.
    pub references: Vec<Option<ReferenceShape>>,
    /// Escapes of a block that are tried for each layer.
    pub escapes: std::ops::RangeInclusive<u32>,
}

impl Default for CalibrateOptions {
    fn default() -> Self {
        CalibrateOptions {
            bytes: 0.29,
            window: 4096,
            tokens: 16384,
            references: REFERENCES.to_vec(),
            escapes: 1..=6,
        }
    }
}

/// How far a calibration has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalibrateEvent {
    /// So many tokens of so many have been run.
    Tokens(usize, usize),
    /// So many layers of so many have been fitted.
    Layers(usize, usize),
}

/// Fits a codec to a model, by what the model makes of `texts`, of what it has `written` itself ([`write_text`]), and of drawn tokens.
///
/// The last two are there for texts of another kind than the given ones. Of `texts`, as many tokens are used as the options say.
///
/// Each layer's references, bits and escapes are chosen together: those with the least sum of weighted errors at the given size. The same
/// model, text and options give the same codec.
///
/// # Errors
/// The text is too short, the size cannot be met, or the device fails.
pub fn calibrate(
    backend: &Arc<dyn Backend>,
    model: &Arc<Model>,
    texts: &[Vec<u32>],
    written: &[Vec<u32>],
    options: &CalibrateOptions,
    progress: &mut (dyn FnMut(CalibrateEvent) + Send),
) -> Result<ModelCodec, Error> {
    let config = model.config();
    check_width(config.shape)?;
    // A model runs no further than it was loaded for.
    let longest = config.context.min(model.rope_positions()) as usize;
    let options = &CalibrateOptions {
        window: options.window.min(longest),
        ..options.clone()
    };
    let mut given = windows(texts, options);
    if !texts.is_empty() && given.iter().all(|window| blocks_of(window.len()) == 0) {
        let longest = given.iter().map(Vec::len).max().unwrap_or(0);
        return Err(Error::Parameter(format!(
            "the text is too short to calibrate: {longest} tokens, expected at least {}",
            SINKS + BLOCK
        )));
    }
    given.extend_from_slice(written);
    let total = given.iter().map(Vec::len).sum();
    let window = DRAWN.1.min(options.window);
    let drawn = DRAWN.0.min(total);
    let ranked = given.len();
    let mut windows = given;
    windows.extend(
        draw(drawn, config.vocabulary)
            .chunks(window)
            .map(<[u32]>::to_vec),
    );
    let all: usize = windows.iter().map(Vec::len).sum();
    let sample = collect(backend, model, &windows, ranked, &mut |done| {
        progress(CalibrateEvent::Tokens(done, all));
    })?;
    let layers = sample.layers.len();
    let sample = sample.weighed(backend, model)?;
    let done = std::sync::Mutex::new((0, progress));
    let fits = sample
        .layers
        .into_par_iter()
        .map(|layer| {
            let fit = Fit::new(&layer, &options.references, options.escapes.clone())?;
            if let Ok(mut done) = done.lock() {
                done.0 += 1;
                let (count, progress) = &mut *done;
                progress(CalibrateEvent::Layers(*count, layers));
            }
            Ok(fit)
        })
        .collect::<Result<Vec<Fit>, Error>>()?;
    let dense = config.shape.raw_bytes() as f64;
    let chosen = allocate(&fits, options.bytes * dense * layers as f64).ok_or_else(|| {
        let least: f64 = fits.iter().map(least_bytes).sum::<f64>() / (dense * layers as f64);
        Error::Parameter(format!(
            "{} of the bytes of raw rows cannot be met: the least is {least:.3}",
            options.bytes
        ))
    })?;
    let mut report = Vec::new();
    let mut codecs = Vec::new();
    for (fit, candidate) in fits.iter().zip(&chosen) {
        report.push(LayerReport {
            references: fit.references(candidate),
            bits: candidate.bits as f64 / f64::from(config.shape.cols()),
            escapes: candidate.escapes,
            bytes: candidate.bytes / dense,
            error: candidate.error,
        });
        codecs.push(fit.codec(candidate));
    }
    // As many observers as the paper has for its models: about one layer in six.
    let observers = (!sample.losses.is_empty()).then(|| {
        sample
            .losses
            .observers((layers as f64 / 5.5).round().max(1.0) as usize)
    });
    Ok(ModelCodec::closed_form(
        model.fingerprint()?,
        codecs,
        &report,
        observers,
        total,
    ))
}

/// The mean row of each layer, over tokens drawn evenly from the vocabulary: what the quantisers `q8` and `q4` subtract.
///
/// # Errors
/// The device fails.
pub fn means(backend: &Arc<dyn Backend>, model: &Arc<Model>) -> Result<Vec<Vec<f32>>, Error> {
    const TOKENS: u32 = 512;
    let config = model.config();
    check_width(config.shape)?;
    let length = TOKENS.min(config.context).min(model.rope_positions());
    let window = draw(length as usize, config.vocabulary);
    let sample = collect(backend, model, &[window], 0, &mut |_| {})?;
    let cols = config.shape.cols() as usize;
    Ok(sample.layers.iter().map(|layer| layer.mean(cols)).collect())
}

/// Tokens drawn evenly from a vocabulary, always the same.
pub fn draw(count: usize, vocabulary: u32) -> Vec<u32> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(vocabulary)) as u32
    };
    (0..count).map(|_| next()).collect()
}

/// Cuts texts into windows: of equal length, as many as the options allow.
fn windows(texts: &[Vec<u32>], options: &CalibrateOptions) -> Vec<Vec<u32>> {
    let mut windows = Vec::new();
    let each = options.tokens / texts.len().max(1);
    for text in texts {
        let text = &text[..text.len().min(each.max(1))];
        let count = text.len().div_ceil(options.window.max(1)).max(1);
        let length = text.len().div_ceil(count).max(1);
        windows.extend(text.chunks(length).map(<[u32]>::to_vec));
    }
    windows
}

fn least_bytes(fit: &Fit) -> f64 {
    let bytes = fit.candidates.iter().map(|candidate| candidate.bytes);
    bytes.fold(f64::MAX, f64::min)
}

/// How much an error of a layer counts.
fn weight(layer: usize, layers: usize) -> f64 {
    (-DEPTH * layer as f64 / layers as f64).exp()
}

/// For each layer the candidate with the least sum of errors, with at most `bytes` for a token of all layers; `None` where that is too few.
fn allocate(fits: &[Fit], bytes: f64) -> Option<Vec<Candidate>> {
    let at = |price: f64| -> Vec<Candidate> {
        fits.iter()
            .enumerate()
            .filter_map(|(layer, fit)| {
                let weight = weight(layer, fits.len());
                let cost =
                    |candidate: &Candidate| weight * candidate.error + price * candidate.bytes;
                let candidates = fit.candidates.iter();
                candidates
                    .min_by(|a, b| {
                        cost(a)
                            .total_cmp(&cost(b))
                            .then(a.bytes.total_cmp(&b.bytes))
                    })
                    .copied()
            })
            .collect()
    };
    let size = |chosen: &[Candidate]| chosen.iter().map(|candidate| candidate.bytes).sum::<f64>();
    // The price of a byte at which the sum is met.
    let (mut low, mut high) = (1e-18f64, 1e6f64);
    if fits.iter().map(least_bytes).sum::<f64>() > bytes {
        return None;
    }
    for _ in 0..200 {
        let middle = (low * high).sqrt();
        if size(&at(middle)) > bytes {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut chosen = at(high);
    // What is left over goes where a step of its size saves most.
    loop {
        let left = bytes - size(&chosen);
        let gains = fits
            .iter()
            .zip(&chosen)
            .enumerate()
            .flat_map(|(layer, (fit, now))| {
                fit.candidates
                    .iter()
                    .filter(move |other| {
                        other.error < now.error
                            && other.bytes > now.bytes
                            && other.bytes - now.bytes <= left
                    })
                    .map(move |other| {
                        let gain = weight(layer, fits.len()) * (now.error - other.error)
                            / (other.bytes - now.bytes);
                        (gain, layer, *other)
                    })
            });
        match gains.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, layer, other)) => chosen[layer] = other,
            None => return Some(chosen),
        }
    }
}
