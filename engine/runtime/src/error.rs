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
    #[error(transparent)]
    DoesNotFit(#[from] Box<DoesNotFit>),
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
    /// A session that was never made or was forgotten, or that a request works on.
    #[error("there is no {}session {name:?}{}", if *.busy { "idle " } else { "" }, if *.busy { ": a request works on it" } else { "" })]
    NoSession {
        /// Its name.
        name: String,
        /// Whether a request works on it.
        busy: bool,
    },
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

/// What a model would take of a device's memory, and what there is. All sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{model} does not fit on {device}: weights {} + cache {} for {tokens} tokens + working memory {} = {}, and {} is free; {}",
    gibibytes(*.weights), gibibytes(*.cache), gibibytes(*.work), gibibytes(.weights + .cache + .work),
    .free.map_or_else(|| "less".into(), gibibytes), self.advice()
)]
pub struct DoesNotFit {
    /// The model's file.
    pub model: String,
    /// The device's name.
    pub device: String,
    /// Weights and the rotary table.
    pub weights: u64,
    /// The cache.
    pub cache: u64,
    /// Tokens that the cache holds.
    pub tokens: u32,
    /// Activations and tables.
    pub work: u64,
    /// What the device says is free; `None` where an allocation failed without its saying so.
    pub free: Option<u64>,
}

impl DoesNotFit {
    /// Tokens that the cache could hold beside weights and working memory, where it is known what is free.
    pub fn fitting(&self) -> Option<u64> {
        let room = self.free?.checked_sub(self.weights + self.work)?;
        let token = self.cache.div_ceil(u64::from(self.tokens.max(1)));
        Some(room / token.max(1)).filter(|tokens| *tokens > 0)
    }

    fn advice(&self) -> String {
        match self.fitting() {
            Some(tokens) => format!("a cache of {tokens} tokens would fit"),
            None => "try a smaller model, a shorter context, or another --device".into(),
        }
    }
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

impl From<CheckError> for Error {
    fn from(error: CheckError) -> Self {
        Error::Backend(BackendError::Check(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_said() {
        let mut error = DoesNotFit {
            model: "m".into(),
            device: "d".into(),
            weights: 6 << 30,
            cache: 4 << 30,
            tokens: 4096,
            work: 1 << 30,
            free: Some(8 << 30),
        };
        assert_eq!(error.fitting(), Some(1024));
        assert!(
            error
                .to_string()
                .ends_with("a cache of 1024 tokens would fit")
        );
        error.free = Some(7 << 30);
        assert_eq!(error.fitting(), None);
        error.free = None;
        assert!(error.to_string().contains("another --device"));
    }
}
