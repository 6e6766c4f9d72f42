//! A model's files, in either form, behind one set of questions.

use std::path::{Path, PathBuf};

use super::config::ModelConfig;
use super::names::{Convention, Name, Part};
use super::{from_gguf, from_hugging_face};
use crate::error::Error;
use crate::format::repack::Rows;
use crate::format::{Gguf, HfDirectory, TensorInfo};
use crate::model::Architecture;
use crate::sample::SamplingParams;
use crate::text::{ChatTemplate, Tokenizer};

/// The files of a model, opened and checked, nothing loaded yet.
#[derive(Debug)]
pub struct ModelSource {
    path: PathBuf,
    files: Files,
    config: ModelConfig,
}

#[derive(Debug)]
pub(super) enum Files {
    Gguf(Gguf),
    HuggingFace(Box<HfDirectory>),
}

impl ModelSource {
    /// Opens a `.gguf` file (or one part of several) or a Hugging Face directory, and reads what the model is.
    ///
    /// # Errors
    /// A file is missing or broken, the architecture is unknown, or the model has features that are not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_path_buf();
        let (files, config) = if path.is_dir() {
            let directory = HfDirectory::open(&path)?;
            let config = from_hugging_face::config(&directory)?;
            (Files::HuggingFace(Box::new(directory)), config)
        } else {
            let gguf = Gguf::open(&path)?;
            let config = from_gguf::config(&gguf)?;
            (Files::Gguf(gguf), config)
        };
        let source = ModelSource {
            path,
            files,
            config,
        };
        source
            .config
            .check()
            .map_err(|why| source.fault("dimensions", why))?;
        for tensor in source.tensors() {
            source.check_known(&tensor.name)?;
        }
        Ok(source)
    }

    /// Where the model lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether the files are GGUF rather than a Hugging Face directory.
    pub fn is_gguf(&self) -> bool {
        matches!(self.files, Files::Gguf(_))
    }

    /// Every tensor of the files.
    pub fn tensors(&self) -> Box<dyn Iterator<Item = &TensorInfo> + '_> {
        match &self.files {
            Files::Gguf(gguf) => Box::new(gguf.tensors()),
            Files::HuggingFace(directory) => Box::new(directory.tensors()),
        }
    }

    /// Keys of the files' description with their values, shortened, for people.
    pub fn metadata(&self) -> Vec<(String, String)> {
        match &self.files {
            Files::Gguf(gguf) => from_gguf::metadata(gguf),
            Files::HuggingFace(directory) => from_hugging_face::metadata(directory),
        }
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// It is missing, broken, or of a kind that is not supported.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        match &self.files {
            Files::Gguf(gguf) => from_gguf::tokenizer(gguf),
            Files::HuggingFace(directory) => from_hugging_face::tokenizer(directory),
        }
    }

    /// The model's chat template, where it has one.
    ///
    /// # Errors
    /// It does not parse.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        match &self.files {
            Files::Gguf(gguf) => from_gguf::chat_template(gguf),
            Files::HuggingFace(directory) => from_hugging_face::chat_template(directory),
        }
    }

    /// How the model's makers advise to sample, as far as the files say; defaults otherwise.
    pub fn sampling_defaults(&self) -> SamplingParams {
        match &self.files {
            Files::Gguf(gguf) => from_gguf::sampling(gguf),
            Files::HuggingFace(directory) => from_hugging_face::sampling(directory),
        }
    }

    pub(super) fn convention(&self) -> Convention {
        match self.files {
            Files::Gguf(_) => Convention::Gguf,
            Files::HuggingFace(_) => Convention::HuggingFace,
        }
    }

    /// A tensor that may be absent.
    pub(super) fn find(&self, name: Name) -> Result<Option<Rows<'_>>, Error> {
        let name = self.convention().name(name);
        Ok(match &self.files {
            Files::Gguf(gguf) => gguf
                .find(&name)
                .is_some()
                .then(|| gguf.rows(&name))
                .transpose()?,
            Files::HuggingFace(directory) => directory
                .find(&name)
                .is_some()
                .then(|| directory.rows(&name))
                .transpose()?,
        })
    }

    /// The order in which a matrix's rows must be taken so that rotary pairs are `(j, j + head_dim / 2)`.
    ///
    /// GGUF files of the llama architecture keep them as `(2 j, 2 j + 1)`; all others have halves already.
    pub(super) fn row_order(&self, name: Name) -> Option<Vec<u32>> {
        let interleaved = self.is_gguf() && self.config.architecture == Architecture::Llama;
        let heads = match name {
            Name::Layer(_, Part::Query | Part::QueryBias) => self.config.heads,
            Name::Layer(_, Part::Key | Part::KeyBias) => self.config.shape.kv_heads,
            _ => return None,
        };
        interleaved.then(|| halves_from_pairs(heads, self.config.shape.head_dim))
    }

    pub(super) fn fault(&self, field: impl ToString, why: impl ToString) -> Error {
        Error::Model {
            file: self.path.display().to_string(),
            field: field.to_string(),
            why: why.to_string(),
        }
    }

    /// A tensor that the model's layers have no use for would be left out silently, and the answers would be wrong.
    fn check_known(&self, name: &str) -> Result<(), Error> {
        let ignored = name.ends_with("rotary_emb.inv_freq");
        match self.convention().parse(name) {
            Some(Name::Layer(layer, _)) if layer >= self.config.layers => Err(self.fault(
                format!("tensor `{name}`"),
                format!("the model has {} layers", self.config.layers),
            )),
            Some(_) => Ok(()),
            None if ignored => Ok(()),
            None => Err(self.fault(
                format!("tensor `{name}`"),
                format!(
                    "is no part of a {} model as this engine knows it",
                    self.config.architecture
                ),
            )),
        }
    }
}

/// Row `h * dim + j` of the result is row `h * dim + 2 j` of the file for the first half of a head, `h * dim + 2 (j - dim / 2) + 1` for the
/// second.
fn halves_from_pairs(heads: u32, dim: u32) -> Vec<u32> {
    let half = dim / 2;
    let within = move |j: u32| if j < half { 2 * j } else { 2 * (j - half) + 1 };
    (0..heads)
        .flat_map(|head| (0..dim).map(move |j| head * dim + within(j)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_halves_head_by_head() {
        assert_eq!(halves_from_pairs(2, 4), [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
