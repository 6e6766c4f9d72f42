//! Policies for a model that is loaded, and the codecs that some of them need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use longwave_contract::Backend;
use longwave_runtime::calibrate::{self, CalibrateEvent, CalibrateOptions, calibrate};
use longwave_runtime::codec::{
    CheckpointOptions, Codec, ModelCodec, is_checkpoint, open_checkpoint, rotated,
};
use longwave_runtime::hub;
use longwave_runtime::model::Model;
use longwave_runtime::policy::{DeltaKv, Dense, OmniKv, Policy};
use sha2::{Digest, Sha256};

use crate::kv::{FullKv, KvPolicy};
use crate::model::Opened;
use crate::output::Notes;
use crate::progress::count_bar;

/// Drawn tokens on which a codec is calibrated.
const DRAWN: usize = 8192;

/// What a codec is calibrated on where none is named.
#[derive(Clone, Copy, Debug)]
pub enum Ground<'a> {
    /// Texts, and what the model writes itself.
    Texts(&'a Opened, &'a [PathBuf]),
    /// Drawn tokens: what a model of random weights writes is no text.
    Drawn,
}

/// Codecs by layer, and the layers that observe.
type LayerCodecs = (Vec<Option<Arc<dyn Codec>>>, Option<Vec<u32>>);

/// Makes policies for one model; what several of them need is made once.
pub struct Policies<'a> {
    backend: Arc<dyn Backend>,
    model: Arc<Model>,
    ground: Ground<'a>,
    notes: &'a Notes,
    means: Option<Vec<Vec<f32>>>,
    codec: Option<ModelCodec>,
}

impl<'a> Policies<'a> {
    /// Makes nothing yet.
    pub fn new(
        backend: &Arc<dyn Backend>,
        model: &Arc<Model>,
        ground: Ground<'a>,
        notes: &'a Notes,
    ) -> Self {
        Policies {
            backend: Arc::clone(backend),
            model: Arc::clone(model),
            ground,
            notes,
            means: None,
            codec: None,
        }
    }

    /// The policy that `--kv` names.
    ///
    /// # Errors
    /// A codec cannot be read, was made for another model, or cannot be calibrated.
    pub fn policy(&mut self, kv: &KvPolicy) -> Result<Arc<dyn Policy>> {
        let layers = self.model.config().layers;
        Ok(match kv {
            KvPolicy::Dense => Arc::new(Dense),
            KvPolicy::OmniKv { budget, full } => {
                let policy = OmniKv::new(layers, full.as_deref(), *budget);
                Arc::new(policy.with_context(|| format!("--kv {kv}"))?)
            }
            KvPolicy::Quantised { bits, budget } => {
                let name = if *bits == 8 { "q8" } else { "q4" };
                Arc::new(DeltaKv::stored(name, *budget, self.rotated(*bits)?))
            }
            KvPolicy::DeltaKv {
                budget,
                full,
                codec,
                checkpoint,
                full_kv,
            } => {
                let (codecs, observers) = self.codecs(codec.as_deref(), checkpoint)?;
                let full = full.clone().or(observers);
                let selection = OmniKv::new(layers, full.as_deref(), *budget)
                    .with_context(|| format!("--kv {kv}"))?;
                let others = match full_kv {
                    FullKv::Q8 => Some(self.rotated(8)?),
                    FullKv::Q4 => Some(self.rotated(4)?),
                    FullKv::F16 | FullKv::Codec => None,
                };
                let mut placed = Vec::new();
                for (layer, codec) in codecs.into_iter().enumerate() {
                    placed.push(
                        match (selection.is_full(layer as u32), full_kv, &others) {
                            (true, FullKv::F16, _) => None,
                            (true, _, Some(others)) => Some(Arc::clone(&others[layer])),
                            _ => {
                                // A layer without one would be kept whole, unasked.
                                ensure!(
                                    codec.is_some(),
                                    "--kv {kv}: layer {layer} has no codec; full layers can be stored otherwise, with full_kv"
                                );
                                codec
                            }
                        },
                    );
                }
                let policy = DeltaKv::new(full.as_deref(), *budget, placed);
                Arc::new(policy.with_context(|| format!("--kv {kv}"))?)
            }
        })
    }

    /// The codec of each layer, and the layers that observe where the codec names them.
    fn codecs(&mut self, path: Option<&Path>, asked: &CheckpointOptions) -> Result<LayerCodecs> {
        if let Some(path) = path
            && is_checkpoint(path)?
        {
            let codecs = open_checkpoint(path, self.model.config(), asked)?;
            return Ok((codecs, None));
        }
        ensure!(
            *asked == CheckpointOptions::default(),
            "stride, neighbours and latents are asked of a checkpoint; a calibrated codec has its own"
        );
        let codec = match path {
            Some(path) => {
                let codec = ModelCodec::open(path)?;
                codec
                    .check(&self.model)
                    .with_context(|| path.display().to_string())?;
                codec
            }
            None => self.default_codec()?,
        };
        let layers = codec.layers().into_iter().map(Some).collect();
        Ok((layers, codec.observers().map(<[u32]>::to_vec)))
    }

    fn rotated(&mut self, bits: u32) -> Result<Vec<Arc<dyn Codec>>> {
        if self.means.is_none() {
            self.means = Some(calibrate::means(&self.backend, &self.model)?);
        }
        let means = self.means.as_deref().unwrap_or_default();
        Ok(rotated(self.model.config().shape, means, bits))
    }

    /// A codec that was calibrated before, or is now.
    fn default_codec(&mut self) -> Result<ModelCodec> {
        if let Some(codec) = &self.codec {
            return Ok(codec.clone());
        }
        let texts = match self.ground {
            Ground::Texts(opened, paths) => read_texts(opened, paths)?,
            Ground::Drawn => vec![Text {
                about: "drawn tokens".into(),
                tokens: calibrate::draw(DRAWN, self.model.config().vocabulary),
            }],
        };
        let options = CalibrateOptions {
            tokens: 8192,
            window: 2048,
            ..CalibrateOptions::default()
        };
        // A codec that another release or other settings would make is not the one that was kept.
        let mut hash = Sha256::new();
        hash.update(self.model.fingerprint()?.weights);
        hash.update(format!("{} {options:?}", calibrate::METHOD));
        for text in &texts {
            hash.update(bytemuck::cast_slice::<u32, u8>(&text.tokens));
            hash.update([0]);
        }
        let digest = hash.finalize();
        let name: String = digest[..12]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let path = hub::codec_directory()?.join(format!("{name}.codec"));
        let read = || -> Result<ModelCodec> {
            let codec = ModelCodec::open(&path)?;
            codec.check(&self.model)?;
            Ok(codec)
        };
        let known = match path.is_file().then(read) {
            Some(Err(error)) => {
                let place = path.display();
                let note = format_args!("the codec kept at {place} is of no use: {error:#}");
                self.notes.note(note);
                None
            }
            found => found.and_then(Result::ok),
        };
        let codec = match known {
            Some(codec) => codec,
            None => {
                let on = match (self.ground, texts.len()) {
                    (Ground::Drawn, _) => "drawn tokens".into(),
                    (_, 0) => "text that the model writes itself".into(),
                    (_, count) => crate::report::count(count, "text"),
                };
                self.notes.note(format_args!("calibrating a codec on {on}, once; `longwave calibrate` makes a better one from more text"));
                let (backend, model) = (&self.backend, &self.model);
                let codec = match self.ground {
                    Ground::Texts(..) => fit(backend, model, texts, &options, self.notes)?,
                    Ground::Drawn => fit_to(backend, model, (texts, &[]), &options, self.notes)?,
                };
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)
                        .with_context(|| format!("{} cannot be made", folder.display()))?;
                }
                codec.save(&path)?;
                self.notes
                    .note(format_args!("the codec is kept at {}", path.display()));
                codec
            }
        };
        self.codec = Some(codec.clone());
        Ok(codec)
    }
}

/// A text as tokens, and what it was.
pub struct Text {
    /// Its file's name, and the beginning of its hash.
    pub about: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

/// Reads texts as tokens of a model.
///
/// # Errors
/// A file cannot be read, or is no text.
pub fn read_texts(opened: &Opened, paths: &[PathBuf]) -> Result<Vec<Text>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let tokenizer = opened.source.tokenizer()?;
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read as text", path.display()))?;
        let digest = Sha256::digest(text.as_bytes());
        let hash: String = digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let tokens = tokenizer
            .encode(&text, false, false)
            .with_context(|| path.display().to_string())?;
        opened.check_tokens(&tokens)?;
        Ok(Text {
            about: format!("{name} {hash}"),
            tokens,
        })
    };
    paths.iter().map(read).collect()
}

/// Fits a codec to texts and to what the model writes, with progress bars.
///
/// # Errors
/// As [`calibrate()`].
pub fn fit(
    backend: &Arc<dyn Backend>,
    model: &Arc<Model>,
    texts: Vec<Text>,
    options: &CalibrateOptions,
    notes: &Notes,
) -> Result<ModelCodec> {
    let bar = count_bar(notes, "writing text", 0);
    let written = calibrate::write_text(backend, model, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let mut codec = fit_to(backend, model, (texts, &written?), options, notes)?;
    let mut about = codec.text().to_vec();
    about.push("written by the model".into());
    codec.describe_text(about);
    Ok(codec)
}

/// The same without letting the model write.
fn fit_to(
    backend: &Arc<dyn Backend>,
    model: &Arc<Model>,
    (texts, written): (Vec<Text>, &[Vec<u32>]),
    options: &CalibrateOptions,
    notes: &Notes,
) -> Result<ModelCodec> {
    let texts = texts.into_iter().map(|text| (text.about, text.tokens));
    let (about, tokens): (Vec<String>, Vec<Vec<u32>>) = texts.unzip();
    let reading = count_bar(notes, "reading", 0);
    let fitting = count_bar(notes, "fitting layers", 0);
    let made = calibrate(
        backend,
        model,
        &tokens,
        written,
        options,
        &mut |event| match event {
            CalibrateEvent::Tokens(done, total) => {
                reading.set_length(total as u64);
                reading.set_position(done as u64);
            }
            CalibrateEvent::Layers(done, total) => {
                reading.finish_and_clear();
                fitting.set_length(total as u64);
                fitting.set_position(done as u64);
            }
        },
    );
    reading.finish_and_clear();
    fitting.finish_and_clear();
    let mut codec = made?;
    codec.describe_text(about);
    Ok(codec)
}
