//! What is measured: a model, or random weights in the shape of one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use longwave_cli::args::ModelArguments;
use longwave_cli::codecs::Ground;
use longwave_cli::model::{self, Opened};
use longwave_cli::output::Notes;
use longwave_contract::Backend;
use longwave_runtime::engine::EngineOptions;
use longwave_runtime::model::{Model, ModelConfig, RandomWeights};

use crate::args::SubjectArguments;

/// Shapes that have a name, as their makers' `config.json` gives them.
const SHAPES: [(&str, &str); 3] = [
    ("llama-3.1-8b", include_str!("../shapes/llama-3.1-8b.json")),
    ("qwen2.5-7b", include_str!("../shapes/qwen2.5-7b.json")),
    ("smollm2-135m", include_str!("../shapes/smollm2-135m.json")),
];

/// The model where none is named.
const MODEL: &str = "smollm2:135m";

/// A file with a shape is a few hundred bytes.
const LARGEST_SHAPE: u64 = 1 << 20;

/// A model before it is on a device.
#[derive(Debug)]
pub enum Subject {
    /// Its files.
    Files(Opened),
    /// A shape.
    Random(RandomWeights),
}

impl Subject {
    /// Finds what the flags name.
    ///
    /// # Errors
    /// There is no such model or shape, or it is broken.
    pub fn open(arguments: &SubjectArguments, notes: &Notes) -> Result<Self> {
        let Some(shape) = &arguments.shape else {
            let name = arguments.model.as_deref().unwrap_or(MODEL);
            let arguments = ModelArguments {
                model: name.to_owned(),
                offline: arguments.offline,
            };
            return Ok(Subject::Files(model::open(&arguments, notes)?));
        };
        let (name, config) = read_shape(shape)?;
        let random = RandomWeights {
            name,
            config,
            dtype: arguments.weights.dtype(),
            seed: arguments.seed,
        };
        // Refused before anything is measured.
        random.parameters()?;
        Ok(Subject::Random(random))
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            Subject::Files(opened) => &opened.name,
            Subject::Random(random) => &random.name,
        }
    }

    /// The type of its matrices; of several, the one that most bytes have.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn weights(&self) -> Result<&'static str> {
        Ok(match self {
            Subject::Files(opened) => {
                let by_type = opened.source.summary()?.bytes_by_type;
                let most = by_type.into_iter().max_by_key(|(_, bytes)| *bytes);
                most.map_or("f16", |(name, _)| name)
            }
            Subject::Random(random) => random.dtype.name(),
        })
    }

    /// Weights in total.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn parameters(&self) -> Result<u64> {
        Ok(match self {
            Subject::Files(opened) => opened.source.summary()?.parameters,
            Subject::Random(random) => random.parameters()?,
        })
    }

    /// Its dimensions.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Subject::Files(opened) => opened.source.config(),
            Subject::Random(random) => &random.config,
        }
    }

    /// Makes sure that it takes so many tokens: random weights know no context that they were trained for.
    ///
    /// # Errors
    /// They are beyond the model's context.
    pub fn reach(&mut self, tokens: u32) -> Result<()> {
        match self {
            Subject::Files(opened) => {
                let context = opened.source.config().context;
                ensure!(
                    tokens <= context,
                    "the longest test takes {tokens} tokens, and the context of {} has {context}",
                    opened.name
                );
            }
            Subject::Random(random) => random.config.context = random.config.context.max(tokens),
        }
        Ok(())
    }

    /// What codecs are calibrated on.
    pub fn ground<'a>(&'a self, texts: &'a [PathBuf]) -> Ground<'a> {
        match self {
            Subject::Files(opened) => Ground::Texts(opened, texts),
            Subject::Random(_) => Ground::Drawn,
        }
    }

    /// Brings it to a device; `options` say what must find room beside it.
    ///
    /// # Errors
    /// It does not fit, or the device fails.
    pub fn load(
        &self,
        backend: &Arc<dyn Backend>,
        options: &EngineOptions,
        notes: &Notes,
    ) -> Result<Arc<Model>> {
        match self {
            Subject::Files(opened) => opened.load(backend, options, notes),
            Subject::Random(random) => Ok(Arc::new(Model::random(backend, random, options)?)),
        }
    }
}

/// The shape of a name, or in a file.
///
/// # Errors
/// There is neither, or the file is none.
fn read_shape(shape: &str) -> Result<(String, ModelConfig)> {
    if let Some((name, text)) = SHAPES.iter().find(|(name, _)| *name == shape) {
        return Ok(((*name).to_owned(), ModelConfig::from_json(name, text)?));
    }
    let known = SHAPES.map(|(name, _)| name).join(", ");
    let path = Path::new(shape);
    let about = std::fs::metadata(path).with_context(|| {
        format!("--shape {shape} is neither {known} nor a file that can be read")
    })?;
    ensure!(
        about.is_file() && about.len() <= LARGEST_SHAPE,
        "--shape {shape} is no file of up to {LARGEST_SHAPE} bytes"
    );
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--shape {shape} cannot be read as text"))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok((name.into_owned(), ModelConfig::from_json(shape, &text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_shapes_have_as_many_weights_as_the_models() -> Result<()> {
        let millions = |shape: &str| -> Result<u64> {
            let (name, config) = read_shape(shape)?;
            let random = RandomWeights {
                name,
                config,
                dtype: longwave_contract::DType::Q4,
                seed: 0,
            };
            Ok(random.parameters()? / 1_000_000)
        };
        assert_eq!(millions("llama-3.1-8b")?, 8030);
        assert_eq!(millions("qwen2.5-7b")?, 7615);
        assert_eq!(millions("smollm2-135m")?, 134);
        Ok(())
    }

    #[test]
    fn a_shape_that_is_not_there_is_refused_with_those_that_are() {
        let refused = |shape| format!("{:#}", read_shape(shape).expect_err("it is no shape"));
        assert!(refused("no-such-shape").contains("llama-3.1-8b"));
        assert!(refused(env!("CARGO_MANIFEST_DIR")).contains("no file"));
        assert!(refused(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).contains("Cargo.toml"));
    }
}
