//! Asking an engine.

use super::footprint::Footprint;
use super::quiz::{Question, Quiz};
use super::score::found;
use crate::engine::{Engine, Feed, Outcome, Wants};
use crate::error::Error;
use crate::kv::SequenceId;
use crate::sample::Sampling;
use crate::text::{TextError, Tokenizer};

/// Tokens of an answer at most: a UUID takes about 40 of them.
pub const ANSWER_TOKENS: u32 = 48;

/// What is known of a question when its context is taken in, and perhaps compressed. The tokens are the same in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// The question: context and question are one prompt, taken in afresh for every question.
    Known,
    /// Nothing: the context is taken in on its own, and questions follow, each as if it were the first.
    Unknown,
}

impl Query {
    /// The word for arguments and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Query::Known => "known",
            Query::Unknown => "unknown",
        }
    }
}

/// What an engine said.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its first line.
    pub text: String,
    /// The share of what was expected that it names.
    pub score: f64,
}

/// What an engine said to all questions about a context.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// In the order of the questions.
    pub answers: Vec<Answer>,
    /// What the cache held once the context, or the context and a question, had been taken in: the mean.
    pub footprint: Footprint,
}

/// Asks the questions of a quiz. The engine must have room for [`Quiz::tokens`] and [`ANSWER_TOKENS`]; `progress` is told of every question.
///
/// # Errors
/// As [`Engine::prefill`] and [`Engine::step`].
pub fn ask(
    engine: &mut Engine,
    tokenizer: &Tokenizer,
    quiz: &Quiz,
    query: Query,
    progress: &mut dyn FnMut(),
) -> Result<Answers, Error> {
    let (mut answers, mut footprints) = (Vec::new(), Vec::new());
    match query {
        Query::Known => {
            for question in &quiz.questions {
                let sequence = engine.start();
                let prompt = [quiz.context.as_slice(), &question.tokens].concat();
                let outcome = engine.prefill_for(
                    sequence,
                    &prompt,
                    Wants::Token(Sampling::greedy()),
                    &mut |_| (),
                )?;
                footprints.push(Footprint::of(engine, sequence)?);
                answers.push(answer(engine, sequence, tokenizer, question, outcome)?);
                engine.end(sequence);
                progress();
            }
        }
        Query::Unknown => {
            let sequence = engine.start();
            engine.prefill(sequence, &quiz.context, &mut |_| ())?;
            footprints.push(Footprint::of(engine, sequence)?);
            for question in &quiz.questions {
                let kept = engine.truncate(sequence, quiz.context.len() as u32)? as usize;
                // A policy may have to give up more than the last question and its answer.
                if kept < quiz.context.len() {
                    engine.prefill(sequence, &quiz.context[kept..], &mut |_| ())?;
                }
                let outcome = engine.prefill_for(
                    sequence,
                    &question.tokens,
                    Wants::Token(Sampling::greedy()),
                    &mut |_| (),
                )?;
                answers.push(answer(engine, sequence, tokenizer, question, outcome)?);
                progress();
            }
            engine.end(sequence);
        }
    }
    Ok(Answers {
        answers,
        footprint: Footprint::mean(&footprints),
    })
}

/// Goes on greedily after a prompt, up to the end of a line, or until nothing more can be won.
fn answer(
    engine: &mut Engine,
    sequence: SequenceId,
    tokenizer: &Tokenizer,
    question: &Question,
    mut outcome: Outcome,
) -> Result<Answer, Error> {
    let mut tokens = Vec::new();
    let mut text = String::new();
    loop {
        let Some(Some(token)) = outcome.tokens.first().copied() else {
            let position = engine.sequence(sequence)?.len().saturating_sub(1);
            return Err(Error::NotANumber { position });
        };
        if tokenizer.stop_tokens().contains(&token) {
            break;
        }
        tokens.push(token);
        match tokenizer.decode(&tokens, true) {
            // Embeddings are often padded beyond the tokenizer's vocabulary; what stands there has no text.
            Err(TextError::NoSuchToken { .. }) => break,
            decoded => text = decoded?,
        }
        if is_complete(&text, &question.expected) || tokens.len() >= ANSWER_TOKENS as usize {
            break;
        }
        let feed = Feed {
            sequence,
            tokens: &[token],
            wants: Wants::Token(Sampling::greedy()),
        };
        outcome = engine.step(&[feed])?;
    }
    let text = first_line(&text).to_owned();
    let score = found(&text, &question.expected);
    Ok(Answer { text, score })
}

fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default()
}

/// Whether a line has ended, or everything was named and the last name is certain to be over.
fn is_complete(text: &str, expected: &[String]) -> bool {
    let begun = text.trim_start();
    let over = begun.ends_with(|end: char| !end.is_alphanumeric());
    begun.contains('\n') || (over && found(begun, expected) == 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_line_or_with_what_was_asked_for() {
        let expected = ["123".to_owned()];
        for (text, complete) in [
            ("", false),
            ("\n12", false),
            (" 123", false),
            (" 123.", true),
            (" 1234.", false),
            (" 12\n", true),
        ] {
            assert_eq!(is_complete(text, &expected), complete, "{text:?}");
        }
        assert_eq!(first_line("\n 12 \n3"), "12 ");
    }
}
