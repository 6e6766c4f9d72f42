//! Questions about a context that is made for them.

use super::haystack::{Book, HaystackKind};
use super::needle::NeedleValue;
use super::prompter::Prompter;
use super::{key_value, needle, tracking};
use crate::error::Error;

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuizSuite {
    /// A value that one sentence of a haystack names. As many needles as questions, with keys that have no word in common.
    Needle,
    /// As `Needle`, but for each question three more needles have keys that begin with the same word.
    MultiKey,
    /// The value of a key in a JSON object of random UUIDs.
    KeyValue,
    /// The names of all variables that a number was passed on to, in a haystack with the assignments.
    Tracking,
}

impl QuizSuite {
    /// The word for arguments and reports.
    pub const fn name(self) -> &'static str {
        match self {
            QuizSuite::Needle => "niah",
            QuizSuite::MultiKey => "multikey",
            QuizSuite::KeyValue => "kvretrieval",
            QuizSuite::Tracking => "tracking",
        }
    }

    /// Whether the context is a haystack of some kind.
    pub const fn has_haystack(self) -> bool {
        !matches!(self, QuizSuite::KeyValue)
    }
}

/// What questions are made of.
#[derive(Clone, Copy, Debug)]
pub struct QuizOptions<'a> {
    /// Which questions.
    pub suite: QuizSuite,
    /// What the context consists of otherwise; of no account where the suite has no haystack.
    pub haystack: HaystackKind,
    /// The prose of [`HaystackKind::Book`].
    pub book: Option<&'a Book>,
    /// What needles hold.
    pub value: NeedleValue,
    /// Tokens of the context and its longest question together: this many, or a few less.
    pub length: u32,
    /// Questions about one context.
    pub questions: u32,
    /// Decides all that is random.
    pub seed: u64,
}

/// A context and questions about it, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quiz {
    /// What every question's prompt begins with.
    pub context: Vec<u32>,
    /// The questions; each is asked on its own.
    pub questions: Vec<Question>,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The rest of the prompt: the question, and what the answer begins with.
    pub tokens: Vec<u32>,
    /// What the answer must name.
    pub expected: Vec<String>,
    /// Where in the context it stands, in tenths; `None` where it is all over it.
    pub depth: Option<u32>,
}

/// A question before it is tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) question: String,
    /// What the answer is made to begin with.
    pub(super) lead: String,
    pub(super) expected: Vec<String>,
    pub(super) depth: Option<u32>,
}

impl QuizOptions<'_> {
    /// The context of a number and its questions; the same each time.
    ///
    /// # Errors
    /// The length does not take the questions, the book is too short for it, or the tokenizer or template fails.
    pub fn quiz(&self, prompter: Prompter<'_>, sample: u32) -> Result<Quiz, Error> {
        if self.questions == 0 {
            return Err(Error::Parameter(
                "a quiz needs one question at least".into(),
            ));
        }
        match self.suite {
            QuizSuite::Needle => needle::quiz(self, 1, prompter, sample),
            QuizSuite::MultiKey => needle::quiz(self, 4, prompter, sample),
            QuizSuite::KeyValue => key_value::quiz(self, prompter, sample),
            QuizSuite::Tracking => tracking::quiz(self, prompter, sample),
        }
    }

    /// The numbers that seed a sample of this kind, beside the seed itself.
    pub(super) fn purpose(&self, sample: u32) -> [u64; 3] {
        [self.suite as u64, self.haystack as u64, u64::from(sample)]
    }

    /// Where question `index` of a sample stands, in tenths: over all samples and questions, all eleven depths in turn.
    pub(super) fn depth(&self, sample: u32, index: u32) -> u32 {
        let number = u64::from(sample) * u64::from(self.questions) + u64::from(index);
        (number % 11) as u32
    }

    /// Finds how many pieces fill the length, from `least` on: `write` makes a context and its questions of so many.
    pub(super) fn fill(
        &self,
        prompter: Prompter<'_>,
        least: usize,
        write: &dyn Fn(usize) -> Result<(String, Vec<Draft>), Error>,
    ) -> Result<Quiz, Error> {
        let make = |pieces: usize| -> Result<(Quiz, usize), Error> {
            let (text, drafts) = write(pieces)?;
            let question = |draft: Draft| -> Result<Question, Error> {
                Ok(Question {
                    tokens: prompter.question(&draft.question, &draft.lead)?,
                    expected: draft.expected,
                    depth: draft.depth,
                })
            };
            let quiz = Quiz {
                context: prompter.context(&text)?,
                questions: drafts.into_iter().map(question).collect::<Result<_, _>>()?,
            };
            let tokens = quiz.tokens();
            Ok((quiz, tokens))
        };
        let length = self.length as usize;
        let (mut best, mut tokens) = make(least)?;
        if tokens > length {
            return Err(Error::Parameter(format!(
                "a context of {length} tokens is too short for {} of {}: expected at least {tokens}",
                match self.questions {
                    1 => "a question".to_owned(),
                    many => format!("{many} questions"),
                },
                self.suite.name()
            )));
        }
        // Secant steps from what fits towards what does not.
        let (mut fits, mut exceeds) = (least, usize::MAX);
        let mut piece = 16.0;
        for _ in 0..10 {
            let more = ((length - tokens) as f64 / piece) as usize;
            let next = fits.saturating_add(more.max(1)).min(exceeds - 1);
            if next <= fits {
                break;
            }
            let (quiz, found) = make(next)?;
            piece = (found.saturating_sub(tokens) as f64 / (next - fits) as f64).max(1.0);
            if found <= length {
                (best, tokens, fits) = (quiz, found, next);
            } else {
                exceeds = next;
            }
        }
        Ok(best)
    }
}

impl Quiz {
    /// Tokens of the context and its longest question.
    pub fn tokens(&self) -> usize {
        let questions = self.questions.iter().map(|question| question.tokens.len());
        self.context.len() + questions.max().unwrap_or(0)
    }
}
