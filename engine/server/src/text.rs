//! A request's tokens as they become text.

use std::sync::Arc;

use longwave_runtime::schedule::Logprobs;
use longwave_runtime::text::{Detokenizer, StopStrings, TextError, Tokenizer};

/// A token, and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Spoken {
    pub token: u32,
    pub logprobs: Option<Logprobs>,
}

/// Text that became certain, with the tokens that came since the last piece.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    pub text: String,
    pub tokens: Vec<Spoken>,
}

/// Makes text of tokens, up to the first stop string.
#[derive(Debug)]
pub struct Speech {
    detokenizer: Detokenizer,
    stop: StopStrings,
    waiting: Vec<Spoken>,
}

impl Speech {
    pub fn new(tokenizer: &Arc<Tokenizer>, stop: &[String]) -> Self {
        Speech {
            detokenizer: Detokenizer::new(Arc::clone(tokenizer)),
            stop: StopStrings::new(stop),
            waiting: Vec::new(),
        }
    }

    /// Takes a token; a piece where text became certain, and whether a stop string ended it.
    pub fn push(&mut self, spoken: Spoken) -> Result<(Option<Piece>, bool), TextError> {
        let fresh = match self.detokenizer.push(spoken.token) {
            // Embeddings are often padded beyond the tokenizer's vocabulary; what stands there has no text.
            Err(TextError::NoSuchToken { .. }) => None,
            pushed => pushed?,
        };
        self.waiting.push(spoken);
        let (text, stopped) = self.stop.push(&fresh.unwrap_or_default());
        Ok((self.piece(text), stopped))
    }

    /// Releases what was held back.
    pub fn finish(&mut self) -> Result<Option<Piece>, TextError> {
        let fresh = self.detokenizer.finish()?.unwrap_or_default();
        let (mut text, stopped) = self.stop.push(&fresh);
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        if text.is_empty() && self.waiting.is_empty() {
            return Ok(None);
        }
        let tokens = std::mem::take(&mut self.waiting);
        Ok(Some(Piece { text, tokens }))
    }

    fn piece(&mut self, text: String) -> Option<Piece> {
        (!text.is_empty()).then(|| Piece {
            text,
            tokens: std::mem::take(&mut self.waiting),
        })
    }
}
