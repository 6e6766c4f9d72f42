//! What tests of questions share.

use super::{Prompter, Quiz};
use crate::text::Tokenizer;
use crate::text::fixture::vocabulary;

/// About one token for each byte.
pub(super) fn tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(&vocabulary("qwen2")).expect("the vocabulary is whole")
}

/// A quiz's context and questions as text.
pub(super) fn texts(prompter: Prompter<'_>, quiz: &Quiz) -> (String, Vec<String>) {
    let decode = |tokens: &[u32]| {
        let text = prompter.tokenizer().decode(tokens, false);
        text.expect("the tokens are the tokenizer's own")
    };
    let questions = quiz.questions.iter();
    let questions = questions.map(|question| decode(&question.tokens)).collect();
    (decode(&quiz.context), questions)
}
