//! Text and tokens: tokenizers, streaming detokenisation, stop strings, chat templates.
//!
//! Nothing here knows of models or devices. A [`Tokenizer`] comes from a Hugging Face `tokenizer.json` or from a GGUF file's vocabulary;
//! a [`ChatTemplate`] from the Jinja source that comes with either.

mod chat;
mod detokenizer;
mod error;
mod hugging_face;
mod pieces;
mod splitting;
mod stop;
mod tokenizer;
mod vocabulary;

#[cfg(test)]
pub(crate) mod fixture;

pub use chat::{ChatOptions, ChatTemplate, Message};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use stop::StopStrings;
pub use tokenizer::Tokenizer;
pub use vocabulary::GgufVocabulary;
