//! Everything that can go wrong above the backends.

use longwave_contract::{BackendError, CheckError};

use crate::format::FormatError;
use crate::hub::HubError;
use crate::kv::SequenceId;
use crate::text::TextError;

/// Why a model could not be loaded or run. Messages name the file and the field where there are any.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model file is not what it should be.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A model could not be found or fetched.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A tokenizer or chat template is broken, or refused its input.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A model asks for something that this engine does not have.
    #[error("{file}: {field}: {why}")]
    Model {
        /// The file or directory.
        file: String,
        /// Which field or tensor.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The model, its cache and its working memory exceed the device's memory.
    #[error(
        "{model} does not fit on {device}: weights {weights} + cache {cache} for {tokens} tokens + working memory {work} = {total}, \
         and {free} are free; try a smaller model, a smaller --context, or another --device"
    )]
    DoesNotFit {
        /// The model's file.
        model: String,
        /// The device's name.
        device: String,
        /// Bytes of weights, readable.
        weights: String,
        /// Bytes of the cache, readable.
        cache: String,
        /// Tokens that the cache holds.
        tokens: u32,
        /// Bytes of activations and tables, readable.
        work: String,
        /// Their sum, readable.
        total: String,
        /// What is free, readable.
        free: String,
    },
    /// There is nothing to run.
    #[error("the prompt is empty: a model needs at least one token")]
    EmptyPrompt,
    /// A token id that the model does not have.
    #[error("token {token} at position {position} is beyond the vocabulary of {vocabulary} tokens")]
    TokenBeyondVocabulary {
        /// The id.
        token: u32,
        /// Where it stands in what was given.
        position: usize,
        /// How many tokens the model knows.
        vocabulary: u32,
    },
    /// More tokens than the context holds.
    #[error("{tokens} tokens do not fit into a context of {context}")]
    ContextExceeded {
        /// How many there would be.
        tokens: u64,
        /// How many fit.
        context: u32,
    },
    /// All pages are held by other sequences.
    #[error("the cache is full: {needed} pages are needed, {free} of {pages} are free")]
    CacheFull {
        /// Pages that a step needs.
        needed: u32,
        /// Pages that are free.
        free: u32,
        /// Pages that there are.
        pages: u32,
    },
    /// A sequence that was never made or has been freed.
    #[error("there is no sequence {}", .0.0)]
    NoSequence(SequenceId),
    /// A step with more rows than the engine was made for, or none.
    #[error("a step takes 1 to {limit} rows, not {rows}")]
    StepSize {
        /// Rows that were given.
        rows: usize,
        /// The most that fit.
        limit: usize,
    },
    /// A parameter is out of range.
    #[error("{0}")]
    Parameter(String),
    /// The model's output is not a number, so no token can be chosen.
    #[error(
        "the logits after position {position} hold no number: the model or the device is broken"
    )]
    NotANumber {
        /// The position.
        position: u32,
    },
}

impl From<CheckError> for Error {
    fn from(error: CheckError) -> Self {
        Error::Backend(BackendError::Check(error))
    }
}
