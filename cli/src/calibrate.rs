//! `longwave calibrate`: fits a codec for `deltakv` to a model.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use longwave_contract::kv::ReferenceShape;
use longwave_runtime::calibrate::CalibrateOptions;
use longwave_runtime::codec::ModelCodec;
use longwave_runtime::engine::EngineOptions;

use crate::args::{DeviceArguments, ModelArguments};
use crate::backend::Choice;
use crate::codecs::{fit, read_texts};
use crate::model;
use crate::output::{Notes, Output, check_target};
use crate::report::bytes;

/// Fit a codec to a model, by running it over text.
///
/// Nothing is trained: each layer's transform is computed from what the layer makes of the text, and references, bits and escapes are
/// chosen by measured error under the byte share.
#[derive(Args, Debug)]
pub struct CalibrateArguments {
    /// The model
    #[command(flatten)]
    pub model: ModelArguments,
    /// A text to run the model over; may be given several times
    #[arg(long, required = true, value_name = "FILE")]
    pub text: Vec<PathBuf>,
    /// Bytes of compressed tokens over those of an f16 cache
    #[arg(long, default_value_t = 0.29, value_name = "SHARE")]
    pub bytes: f64,
    /// Tokens of the texts that are used at most
    #[arg(long, default_value_t = 16_384, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Tokens of a window that is run at once
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = clap::value_parser!(u32).range(256..))]
    pub window: u32,
    /// Distances of references that are tried, `none` among them
    #[arg(long, default_value = "16", value_delimiter = ',', value_name = "LIST", value_parser = stride)]
    pub references: Vec<Stride>,
    /// Tokens of each block of 128 that are kept at 8 bits at most
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=16))]
    pub escapes: u32,
    /// Tokens of each block of 128 that are kept at 8 bits at least
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=16))]
    pub least_escapes: u32,
    /// The device
    #[command(flatten)]
    pub device: DeviceArguments,
    /// The codec's file
    #[arg(short, long, value_name = "CODEC")]
    pub output: PathBuf,
    /// Print what was found as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

impl CalibrateArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model, a text or the device cannot be used, the texts are too short, or the byte share cannot be met.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        ensure!(
            self.bytes > 0.0 && self.bytes < 1.0,
            "--bytes is {}, expected a share between 0 and 1",
            self.bytes
        );
        ensure!(
            self.least_escapes <= self.escapes,
            "--least-escapes {} is above --escapes {}",
            self.least_escapes,
            self.escapes
        );
        check_target(&self.output)?;
        let choice = Choice::by(&self.device)?;
        let opened = model::open(&self.model, notes)?;
        let texts = read_texts(&opened, &self.text)?;
        let window = self.window.min(opened.source.config().context);
        let backend = choice.open(notes)?;
        let options = EngineOptions {
            cache_permille: 300,
            ..EngineOptions::single(window)
        };
        let model = opened.load(&backend, &options, notes)?;
        let options = CalibrateOptions {
            bytes: self.bytes,
            window: window as usize,
            tokens: self.tokens as usize,
            references: self.references.iter().map(|stride| stride.0).collect(),
            escapes: self.least_escapes..=self.escapes,
        };
        let codec = fit(&backend, &model, texts, &options, notes)?;
        codec.save(&self.output)?;
        let mut output = Output::stdout();
        if self.json {
            output.json(&report(&codec))?;
        } else {
            output.text(&table(&codec, &self.output))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The distance of references, or none of them.
#[derive(Clone, Copy, Debug)]
pub struct Stride(Option<ReferenceShape>);

fn stride(text: &str) -> Result<Stride, String> {
    if text == "none" {
        return Ok(Stride(None));
    }
    let stride = text
        .parse()
        .ok()
        .filter(|stride| (2..=128).contains(stride));
    let stride =
        stride.ok_or_else(|| format!("`{text}` is neither `none` nor a number from 2 to 128"))?;
    Ok(Stride(Some(ReferenceShape {
        stride,
        neighbours: 4,
    })))
}

fn report(codec: &ModelCodec) -> serde_json::Value {
    let layers = codec.report().into_iter().map(|layer| {
        serde_json::json!({
            "stride": layer.references.map(|references| references.stride),
            "neighbours": layer.references.map(|references| references.neighbours),
            "bits": layer.bits,
            "escapes": layer.escapes,
            "bytes": layer.bytes,
            "error": layer.error,
        })
    });
    serde_json::json!({
        "bytes": codec.bytes(),
        "tokens": codec.tokens(),
        "text": codec.text(),
        "observers": codec.observers(),
        "layers": layers.collect::<Vec<_>>(),
    })
}

fn table(codec: &ModelCodec, path: &std::path::Path) -> String {
    let mut text = format!(
        "{:>5}  {:>10}  {:>5}  {:>7}  {:>7}  {:>9}\n",
        "layer", "references", "bits", "escapes", "bytes", "error"
    );
    for (index, layer) in codec.report().into_iter().enumerate() {
        let references = layer.references.map_or("none".into(), |references| {
            format!("every {}", references.stride)
        });
        text += &format!(
            "{index:>5}  {references:>10}  {:>5.2}  {:>7}  {:>5.1} %  {:>9.2e}\n",
            layer.bits,
            layer.escapes,
            100.0 * layer.bytes,
            layer.error
        );
    }
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let observers = codec
        .observers()
        .map_or("not found: the text is too short".into(), |layers| {
            let layers: Vec<String> = layers.iter().map(u32::to_string).collect();
            layers.join(", ")
        });
    text += &format!(
        "{:.1} % of the bytes of an f16 cache, fitted on {} tokens; full layers: {observers}\n{}: {}\n",
        100.0 * codec.bytes(),
        codec.tokens(),
        path.display(),
        bytes(size)
    );
    text
}
