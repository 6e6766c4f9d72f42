//! The vocabulary of a GGUF file, and what must hold for it.

use std::collections::HashMap;

use super::error::TextError;

/// What a GGUF file says about its tokenizer; the metadata keys begin with `tokenizer.ggml.`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `model`: the kind of tokenizer. `gpt2` is byte-level byte-pair encoding, the only kind so far.
    pub model: String,
    /// `pre`: how texts are cut into words.
    pub pre: Option<String>,
    /// `tokens`: each token's spelling; its index is its id.
    pub tokens: Vec<String>,
    /// `token_type`: one for each token; 3 is control, 4 is user-defined.
    pub token_types: Vec<i32>,
    /// `merges`: pairs of tokens with a space between, the first merge first.
    pub merges: Vec<String>,
    /// `bos_token_id`: begins a text.
    pub bos: Option<u32>,
    /// `eos_token_id`: ends a text or a turn.
    pub eos: Option<u32>,
    /// `eot_token_id`: ends a turn.
    pub eot: Option<u32>,
    /// `unknown_token_id`: stands for what has no token; checked, but not used: text without tokens is an error.
    pub unknown: Option<u32>,
    /// `add_bos_token`: whether texts begin with `bos`; where the file does not say, the pre-tokenizer decides (`llama-bpe` does).
    pub add_bos: Option<bool>,
    /// `tokenizer.chat_template`: Jinja source; see [`ChatTemplate`](super::ChatTemplate).
    pub chat_template: Option<String>,
}

/// Token type of control tokens.
pub(super) const CONTROL: i32 = 3;
/// Token type of tokens that are found in texts before these are cut into words.
pub(super) const USER_DEFINED: i32 = 4;
/// No vocabulary is larger; a limit for memory that a broken file could ask for.
pub(super) const MOST_TOKENS: usize = 1 << 24;

/// Control tokens that end a turn or a text, by how models spell them.
const ENDS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<|eot|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|EOT|>",
    "</s>",
];

fn broken(key: &str, why: String) -> TextError {
    TextError::Broken {
        field: format!("tokenizer.ggml.{key}"),
        why,
    }
}

impl GgufVocabulary {
    /// The id of each token's spelling.
    ///
    /// # Errors
    /// The vocabulary is of an unknown kind, is empty, has a token twice, or its parts do not fit together.
    pub(super) fn check(&self) -> Result<HashMap<String, u32>, TextError> {
        if self.model != "gpt2" {
            let supported = "gpt2 (byte-level byte-pair encoding)".to_owned();
            return Err(TextError::Unsupported {
                field: "tokenizer.ggml.model".to_owned(),
                found: self.model.clone(),
                supported,
            });
        }
        let count = self.tokens.len();
        if count == 0 || count > MOST_TOKENS {
            return Err(broken(
                "tokens",
                format!("has {count} entries, expected 1 to {MOST_TOKENS}"),
            ));
        }
        if self.token_types.len() != count {
            return Err(broken(
                "token_type",
                format!(
                    "has {} entries, expected {count} as `tokens` has",
                    self.token_types.len()
                ),
            ));
        }
        if let Some((id, kind)) = self
            .token_types
            .iter()
            .enumerate()
            .find(|(_, kind)| !(0..=6).contains(*kind))
        {
            return Err(broken(
                "token_type",
                format!("token {id} has type {kind}, expected 0 to 6"),
            ));
        }
        let mut ids = HashMap::with_capacity(count);
        for (id, token) in (0_u32..).zip(&self.tokens) {
            if let Some(first) = ids.insert(token.clone(), id) {
                return Err(broken(
                    "tokens",
                    format!(
                        "tokens {first} and {id} are both `{}`",
                        token.escape_debug()
                    ),
                ));
            }
        }
        for (key, id) in [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("unknown", self.unknown),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(broken(
                    &format!("{key}_token_id"),
                    format!("is {id}, beyond the vocabulary of {count}"),
                ));
            }
        }
        if self.add_bos == Some(true) && self.bos.is_none() {
            return Err(broken(
                "bos_token_id",
                "is missing, but `add_bos_token` asks for it".to_owned(),
            ));
        }
        Ok(ids)
    }

    /// The pairs of tokens that merge, the first first.
    ///
    /// # Errors
    /// There are none, one is not a pair, or names or makes a token that `ids` does not have.
    pub(super) fn pairs(
        &self,
        ids: &HashMap<String, u32>,
    ) -> Result<Vec<(String, String)>, TextError> {
        if self.merges.is_empty() {
            return Err(broken("merges", "is missing or empty".to_owned()));
        }
        let pair = |(index, merge): (usize, &String)| {
            let fault = |why: String| {
                broken(
                    "merges",
                    format!("entry {index} `{}` {why}", merge.escape_debug()),
                )
            };
            let (left, right) = merge
                .split_once(' ')
                .ok_or_else(|| fault("is not two tokens with a space between".to_owned()))?;
            for token in [left, right, &format!("{left}{right}")] {
                if !ids.contains_key(token) {
                    return Err(fault(format!(
                        "needs the token `{}`, which the vocabulary does not have",
                        token.escape_debug()
                    )));
                }
            }
            Ok((left.to_owned(), right.to_owned()))
        };
        self.merges.iter().enumerate().map(pair).collect()
    }

    /// Whether a token steers the model and is no text.
    pub(super) fn is_control(&self, id: u32) -> bool {
        self.token_types.get(id as usize) == Some(&CONTROL)
    }

    /// The tokens that end generation: what the file names, and control tokens that are known to end turns.
    pub(super) fn stop_tokens(&self, ids: &HashMap<String, u32>) -> Vec<u32> {
        let known = ENDS
            .iter()
            .filter_map(|end| ids.get(*end).copied())
            .filter(|&id| self.is_control(id));
        self.eos.into_iter().chain(self.eot).chain(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;
    use crate::text::fixture::vocabulary;

    fn fault(change: impl FnOnce(&mut GgufVocabulary)) -> String {
        let mut broken = vocabulary("smollm");
        change(&mut broken);
        Tokenizer::from_gguf(&broken)
            .expect_err("the vocabulary is broken")
            .to_string()
    }

    #[test]
    fn other_kinds_of_tokenizer_are_named_and_refused() {
        let error = fault(|v| v.model = "llama".into());
        assert_eq!(
            error,
            "tokenizer.ggml.model: `llama` is not supported; supported are gpt2 (byte-level byte-pair encoding)"
        );
        assert!(
            fault(|v| v.pre = Some("tekken9".into()))
                .starts_with("tokenizer.ggml.pre: `tekken9` is not supported; supported are gpt-2")
        );
        assert!(fault(|v| v.pre = None).starts_with("tokenizer.ggml.pre: `(missing)`"));
    }

    #[test]
    fn broken_tokens_are_refused() {
        assert!(fault(|v| v.tokens.clear()).starts_with("tokenizer.ggml.tokens: has 0 entries"));
        let error = fault(|v| v.tokens[7] = "A".into());
        assert_eq!(error, "tokenizer.ggml.tokens: tokens 7 and 65 are both `A`");
        assert!(
            fault(|v| v.token_types.truncate(5))
                .starts_with("tokenizer.ggml.token_type: has 5 entries, expected ")
        );
        assert!(
            fault(|v| v.token_types.clear())
                .starts_with("tokenizer.ggml.token_type: has 0 entries, expected ")
        );
        assert_eq!(
            fault(|v| v.token_types[9] = 77),
            "tokenizer.ggml.token_type: token 9 has type 77, expected 0 to 6"
        );
    }

    #[test]
    fn broken_merges_are_refused() {
        assert_eq!(
            fault(|v| v.merges.clear()),
            "tokenizer.ggml.merges: is missing or empty"
        );
        assert!(
            fault(|v| v.merges[1] = "ab".into())
                .starts_with("tokenizer.ggml.merges: entry 1 `ab` is not two tokens")
        );
        assert!(
            fault(|v| v.merges[0] = "a zz".into()).contains("entry 0 `a zz` needs the token `zz`")
        );
        assert!(fault(|v| v.merges[0] = "q q".into()).contains("needs the token `qq`"));
        assert!(
            fault(|v| v.merges[0] = "hello hello".into()).contains("needs the token `hellohello`")
        );
        assert!(fault(|v| v.merges[0] = " ".into()).contains("needs the token ``"));
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_refused() {
        let size = vocabulary("smollm").tokens.len();
        let error = fault(|v| v.eos = Some(u32::MAX));
        assert_eq!(
            error,
            format!("tokenizer.ggml.eos_token_id: is 4294967295, beyond the vocabulary of {size}")
        );
        assert!(
            fault(|v| v.bos = Some(size as u32)).starts_with("tokenizer.ggml.bos_token_id: is ")
        );
        assert!(
            fault(|v| v.eot = Some(size as u32)).starts_with("tokenizer.ggml.eot_token_id: is ")
        );
        assert!(
            fault(|v| v.unknown = Some(size as u32))
                .starts_with("tokenizer.ggml.unknown_token_id: is ")
        );
        assert!(
            fault(|v| (v.add_bos, v.bos) = (Some(true), None))
                .starts_with("tokenizer.ggml.bos_token_id: is missing")
        );
    }
}
