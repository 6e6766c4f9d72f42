//! How far a policy is from dense attention, on the same inputs.
//!
//! | what | how | file |
//! | --- | --- | --- |
//! | [`Comparison`] | divergence of next-token distributions and perplexity, teacher-forced | `comparison.rs` |
//! | [`Quiz`] | questions about a long context, generated from a seed | `quiz.rs`, `needle.rs`, `key_value.rs`, `tracking.rs` |
//! | [`HaystackKind`], [`Book`] | what a context consists of beside what is asked for | `haystack.rs`, `book.rs` |
//! | [`Prompter`] | a context and a question as tokens, by the model's chat template | `prompter.rs` |
//! | [`ask`] | greedy answers of one engine, with the question known or unknown when the context is compressed | `ask.rs` |
//! | [`PairedScores`] | accuracy against dense attention, with intervals | `score.rs` |
//! | [`Footprint`] | bytes that a sequence holds against a dense cache's | `footprint.rs` |

mod ask;
mod book;
mod comparison;
mod footprint;
mod haystack;
mod key_value;
mod needle;
mod prompter;
mod quiz;
mod score;
#[cfg(test)]
mod testing;
mod tracking;

pub use ask::{ANSWER_TOKENS, Answer, Answers, Query, ask};
pub use comparison::{Comparison, ComparisonSummary, windows};
pub use footprint::Footprint;
pub use haystack::{Book, HaystackKind};
pub use needle::NeedleValue;
pub use prompter::Prompter;
pub use quiz::{Question, Quiz, QuizOptions, QuizSuite};
pub use score::{DepthScore, PairedScores, ScoreSummary};
