//! From words to tokens: with the model's chat template, or without.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use longwave_runtime::text::{ChatOptions, ChatTemplate, Tokenizer};

pub use longwave_runtime::text::Message;

use crate::args::Switch;
use crate::model::Opened;

/// A model's way to write conversations down.
pub struct Conversation {
    template: ChatTemplate,
    tokenizer: Arc<Tokenizer>,
    options: ChatOptions,
}

impl Conversation {
    /// The way of a model.
    ///
    /// # Errors
    /// The model has no chat template, it is broken, or it cannot say whether to think.
    pub fn new(opened: &Opened, tokenizer: Arc<Tokenizer>, think: Option<Switch>) -> Result<Self> {
        let name = &opened.name;
        let template = opened.source.chat_template()?;
        let template = template.with_context(|| {
            format!("{name} has no chat template: `run --raw` continues a text without one")
        })?;
        ensure!(
            think.is_none() || template.knows_thinking(),
            "--think: the chat template of {name} knows no such switch"
        );
        Ok(Conversation {
            template,
            tokenizer,
            options: ChatOptions {
                enable_thinking: think.map(|think| think == Switch::On),
                ..Default::default()
            },
        })
    }

    /// A conversation as tokens, up to where the model is to answer.
    ///
    /// # Errors
    /// The template refuses the messages.
    pub fn tokens(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let text = self.template.render(messages, &self.options)?;
        Ok(self.tokenizer.encode_rendered(&text)?)
    }
}

/// A text as tokens, with what the tokenizer puts before every text. Control tokens that it spells out count as such: who writes a raw
/// prompt may write a template of their own.
///
/// # Errors
/// The tokenizer refuses it.
pub fn raw(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(text, true, true)?)
}
