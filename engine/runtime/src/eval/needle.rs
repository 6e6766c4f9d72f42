//! Needles: sentences that name a value, in a haystack.

use super::haystack::{insert, pieces, uuid};
use super::prompter::Prompter;
use super::quiz::{Draft, Quiz, QuizOptions};
use crate::error::Error;
use crate::random::SplitMix64;

/// What a needle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NeedleValue {
    /// A number of seven digits.
    Number,
    /// A UUID.
    Uuid,
}

impl NeedleValue {
    /// The word for arguments and reports.
    pub const fn name(self) -> &'static str {
        match self {
            NeedleValue::Number => "number",
            NeedleValue::Uuid => "uuid",
        }
    }
}

const FIRST: [&str; 40] = [
    "amber", "ancient", "arctic", "azure", "brisk", "bronze", "candid", "cobalt", "coral",
    "crimson", "curious", "distant", "dusty", "eager", "emerald", "feral", "floral", "gentle",
    "golden", "hollow", "humble", "ivory", "jagged", "jolly", "lunar", "marble", "mellow", "misty",
    "nimble", "opal", "plain", "rustic", "scarlet", "silent", "solar", "tidal", "urban", "velvet",
    "violet", "wicker",
];
const SECOND: [&str; 40] = [
    "anchor", "badger", "barrel", "beacon", "bishop", "buffalo", "cactus", "canyon", "castle",
    "comet", "dagger", "dolphin", "dragon", "falcon", "fountain", "galaxy", "glacier", "hammer",
    "island", "jaguar", "kernel", "ladder", "lantern", "magnet", "meteor", "mirror", "needle",
    "otter", "panther", "pebble", "pigeon", "pyramid", "raven", "saddle", "salmon", "temple",
    "trumpet", "turtle", "walnut", "wizard",
];
/// First words must differ from question to question.
const MOST: u32 = FIRST.len() as u32;

/// What a needle is about: its key and its value.
struct Needle {
    key: String,
    value: String,
    depth: f64,
}

impl Needle {
    fn line(&self, noun: &str) -> String {
        format!("The secret {noun} of the {} is {}. ", self.key, self.value)
    }
}

/// As many needles as questions, each with `keys - 1` others that begin alike.
pub(super) fn quiz(
    options: &QuizOptions<'_>,
    keys: usize,
    prompter: Prompter<'_>,
    sample: u32,
) -> Result<Quiz, Error> {
    if options.questions > MOST {
        let asked = options.questions;
        return Err(Error::Parameter(format!(
            "{asked} questions about one context of {}, expected at most {MOST}",
            options.suite.name()
        )));
    }
    let purpose = options.purpose(sample);
    let mut random = SplitMix64::of(options.seed, &[purpose[0], purpose[1], purpose[2], 0]);
    let noun = match options.value {
        NeedleValue::Number => "number",
        NeedleValue::Uuid => "code",
    };
    let (mut asked, mut others) = (Vec::new(), Vec::new());
    let first = shuffled(&FIRST, &mut random);
    let mut values = Vec::new();
    for (index, first) in first.iter().take(options.questions as usize).enumerate() {
        let second = shuffled(&SECOND, &mut random);
        for (place, second) in second.iter().take(keys).enumerate() {
            let value = loop {
                let value = match options.value {
                    NeedleValue::Number => (1_000_000 + random.below(9_000_000)).to_string(),
                    NeedleValue::Uuid => uuid(&mut random),
                };
                if !values.contains(&value) {
                    break value;
                }
            };
            values.push(value.clone());
            let key = format!("{first} {second}");
            if place == 0 {
                let depth = options.depth(sample, index as u32);
                let needle = Needle {
                    key,
                    value,
                    depth: f64::from(depth) / 10.0,
                };
                asked.push((depth, needle));
            } else {
                others.push(Needle {
                    key,
                    value,
                    depth: random.uniform(),
                });
            }
        }
    }
    let haystack = SplitMix64::of(options.seed, &[purpose[0], purpose[1], purpose[2], 1]);
    let write = |count: usize| -> Result<(String, Vec<Draft>), Error> {
        let pieces = pieces(options.haystack, options.book, haystack.clone(), count)?;
        let needles = asked.iter().map(|(_, needle)| needle).chain(&others);
        let lines = needles
            .map(|needle| (needle.depth, needle.line(noun)))
            .collect();
        let text = format!(
            "The text below names secret {noun}s. Remember them: you will be asked for one.\n\n{}",
            insert(pieces, lines)
        );
        let drafts = asked.iter().map(|(depth, needle)| Draft {
            question: format!(
                "According to the text above, what is the secret {noun} of the {}?",
                needle.key
            ),
            lead: format!("The secret {noun} of the {} is", needle.key),
            expected: vec![needle.value.clone()],
            depth: Some(*depth),
        });
        Ok((text, drafts.collect()))
    };
    options.fill(prompter, 4, &write)
}

fn shuffled<'a>(words: &[&'a str], random: &mut SplitMix64) -> Vec<&'a str> {
    let mut words = words.to_vec();
    for index in (1..words.len()).rev() {
        words.swap(index, random.below(index + 1));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::testing::{texts, tokenizer};
    use crate::eval::{Book, HaystackKind, QuizSuite};

    fn options(suite: QuizSuite) -> QuizOptions<'static> {
        QuizOptions {
            suite,
            haystack: HaystackKind::Book,
            book: None,
            value: NeedleValue::Number,
            length: 12_000,
            questions: 11,
            seed: 5,
        }
    }

    #[test]
    fn needles_occur_once_and_at_their_depths() -> Result<(), Error> {
        let tokenizer = tokenizer();
        let prompter = Prompter::new(&tokenizer, None);
        for haystack in [HaystackKind::Book, HaystackKind::Repeat, HaystackKind::Uuid] {
            for value in [NeedleValue::Number, NeedleValue::Uuid] {
                for (suite, keys) in [(QuizSuite::Needle, 1), (QuizSuite::MultiKey, 4)] {
                    let options = QuizOptions {
                        haystack,
                        value,
                        ..options(suite)
                    };
                    let quiz = options.quiz(prompter, 0)?;
                    assert!(
                        quiz.tokens() <= 12_000 && quiz.tokens() > 11_700,
                        "{}",
                        quiz.tokens()
                    );
                    let (context, questions) = texts(prompter, &quiz);
                    assert_eq!(context.matches("The secret ").count(), 11 * keys);
                    for (index, question) in quiz.questions.iter().enumerate() {
                        assert_eq!(question.depth, Some(index as u32));
                        let value = &question.expected[0];
                        assert_eq!(context.matches(value.as_str()).count(), 1, "{value}");
                        assert!(!questions[index].contains(value.as_str()));
                        let lead = questions[index]
                            .split("Answer: ")
                            .nth(1)
                            .expect("there is a lead");
                        assert!(context.contains(&format!("{lead} {value}.")), "{lead}");
                        let first = lead.split(' ').nth(5).expect("a key has two words");
                        assert_eq!(context.matches(&format!("of the {first} ")).count(), keys);
                        let share =
                            context.find(value.as_str()).unwrap_or(0) as f64 / context.len() as f64;
                        assert!(
                            (share - index as f64 / 10.0).abs() < 0.07,
                            "{index}: {share}"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_seed_and_a_sample_decide_everything() -> Result<(), Error> {
        let tokenizer = tokenizer();
        let prompter = Prompter::new(&tokenizer, None);
        let options = options(QuizSuite::Needle);
        let first = options.quiz(prompter, 3)?;
        assert_eq!(first, options.quiz(prompter, 3)?);
        assert_ne!(first.context, options.quiz(prompter, 4)?.context);
        assert_eq!(first.questions[0].depth, Some(0));
        let other = QuizOptions { seed: 6, ..options };
        assert_ne!(first.context, other.quiz(prompter, 3)?.context);
        let four = QuizOptions {
            questions: 4,
            ..options
        };
        let depths = |sample| -> Result<Vec<Option<u32>>, Error> {
            let quiz = four.quiz(prompter, sample)?;
            Ok(quiz
                .questions
                .iter()
                .map(|question| question.depth)
                .collect())
        };
        assert_eq!(depths(2)?, [Some(8), Some(9), Some(10), Some(0)]);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let tokenizer = tokenizer();
        let prompter = Prompter::new(&tokenizer, None);
        let short = QuizOptions {
            length: 300,
            ..options(QuizSuite::MultiKey)
        };
        let error = short
            .quiz(prompter, 0)
            .expect_err("it is too short")
            .to_string();
        assert!(
            error.contains("300") && error.contains("multikey"),
            "{error}"
        );
        let many = QuizOptions {
            questions: 41,
            ..options(QuizSuite::Needle)
        };
        assert!(many.quiz(prompter, 0).is_err());
        let book = Book::new("One. Two. Three.");
        let shallow = QuizOptions {
            book: Some(&book),
            ..options(QuizSuite::Needle)
        };
        let error = shallow
            .quiz(prompter, 0)
            .expect_err("there is too little")
            .to_string();
        assert!(error.contains("3 sentences"), "{error}");
    }
}
