//! Answers that keep to a JSON schema.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use longwave_runtime::schedule::Constraint;
use longwave_runtime::text::Tokenizer;
use serde_json::Value;

/// Blanks between two parts of a JSON text: enough for indented lines.
const BLANKS: &str = "[ \\n\\t]{0,12}";

/// What grammars of one tokenizer share.
pub struct Grammars {
    factory: Result<ParserFactory, String>,
}

impl Grammars {
    /// For a tokenizer, of a model with so many tokens.
    pub fn new(tokenizer: &Tokenizer, vocabulary: u32) -> Self {
        Grammars {
            factory: factory(tokenizer, vocabulary),
        }
    }

    /// Only text that a schema allows.
    ///
    /// # Errors
    /// The schema is of no use, or asks for what grammars cannot say; which it is.
    pub fn schema(&self, mut schema: Value) -> Result<Box<dyn Constraint>, String> {
        if let Some(object) = schema.as_object_mut() {
            // Without a limit, small models write blanks until they may write no more.
            let layout = serde_json::json!({"whitespace_pattern": BLANKS});
            object.entry("x-guidance").or_insert(layout);
        }
        let factory = self.factory.as_ref().map_err(Clone::clone)?;
        let parser = factory.create_parser(TopLevelGrammar::from_json_schema(schema));
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(Box::new(Keeps { matcher })),
        }
    }
}

fn factory(tokenizer: &Tokenizer, vocabulary: u32) -> Result<ParserFactory, String> {
    let Some(&end) = tokenizer.stop_tokens().first() else {
        return Err("the model has no token that ends an answer".into());
    };
    let words: Vec<Vec<u8>> = (0..vocabulary)
        .map(|id| match tokenizer.token_bytes(id) {
            Some(bytes) if !tokenizer.is_special(id) => bytes.to_vec(),
            Some(bytes) => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
            None => Vec::new(),
        })
        .collect();
    let info = TokRxInfo::new(vocabulary, end);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
    let mut factory = ParserFactory::new_simple(&env).map_err(|error| error.to_string())?;
    factory.quiet();
    Ok(factory)
}

/// What a grammar allows.
struct Keeps {
    matcher: Matcher,
}

impl Constraint for Keeps {
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let mask = self.matcher.compute_mask_or_eos();
        let mask = mask.map_err(|error| error.to_string())?;
        for (token, logit) in (0..).zip(logits) {
            if !mask.is_allowed(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool, String> {
        let taken = self.matcher.consume_token(token);
        taken.map_err(|error| error.to_string())?;
        Ok(self.matcher.is_stopped())
    }
}
