//! Variable tracking: a number is passed on from variable to variable, all over a haystack.

use super::haystack::{insert, pieces};
use super::prompter::Prompter;
use super::quiz::{Draft, Quiz, QuizOptions};
use crate::error::Error;
use crate::random::SplitMix64;

/// Variables that a number reaches: one is set to it, the others to each other in turn.
const VARIABLES: usize = 5;

/// As many chains as questions; each is asked for.
pub(super) fn quiz(
    options: &QuizOptions<'_>,
    prompter: Prompter<'_>,
    sample: u32,
) -> Result<Quiz, Error> {
    let purpose = options.purpose(sample);
    let mut random = SplitMix64::of(options.seed, &[purpose[0], purpose[1], purpose[2], 0]);
    let mut names: Vec<String> = Vec::new();
    let mut numbers: Vec<String> = Vec::new();
    let (mut lines, mut drafts) = (Vec::new(), Vec::new());
    for _ in 0..options.questions {
        let number = fresh(&mut numbers, || (10_000 + random.below(90_000)).to_string());
        let chain: Vec<String> = (0..VARIABLES)
            .map(|_| {
                fresh(&mut names, || {
                    let letters = (0..5).map(|_| char::from(b'A' + random.below(26) as u8));
                    letters.collect()
                })
            })
            .collect();
        // In the order in which they follow from each other.
        let mut depths: Vec<f64> = chain.iter().map(|_| random.uniform()).collect();
        depths.sort_by(f64::total_cmp);
        let mut before = number.clone();
        for (name, depth) in chain.iter().zip(depths) {
            lines.push((depth, format!("VAR {name} = {before}. ")));
            before = format!("VAR {name}");
        }
        drafts.push(Draft {
            question: format!(
                "{VARIABLES} variables in the text above have the value {number}: one is set to it, the others follow from it. Name them in one line, with commas between them."
            ),
            lead: format!("The {VARIABLES} variables that have the value {number} are VAR"),
            expected: chain,
            depth: None,
        });
    }
    let haystack = SplitMix64::of(options.seed, &[purpose[0], purpose[1], purpose[2], 1]);
    let write = |count: usize| -> Result<(String, Vec<Draft>), Error> {
        let pieces = pieces(options.haystack, options.book, haystack.clone(), count)?;
        let text = format!(
            "The text below sets variables to numbers and to each other. Remember which number each one has: after \"VAR AAAAA = 12121.\" and \
             \"VAR BBBBB = VAR AAAAA.\", both AAAAA and BBBBB have the value 12121.\n\n{}",
            insert(pieces, lines.clone())
        );
        Ok((text, drafts.clone()))
    };
    options.fill(prompter, 4, &write)
}

/// What is not among `taken` yet; it is after.
fn fresh(taken: &mut Vec<String>, mut make: impl FnMut() -> String) -> String {
    loop {
        let made = make();
        if !taken.contains(&made) {
            taken.push(made.clone());
            return made;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::testing::{texts, tokenizer};
    use crate::eval::{HaystackKind, NeedleValue, QuizSuite};

    #[test]
    fn chains_can_be_followed() -> Result<(), Error> {
        let tokenizer = tokenizer();
        let prompter = Prompter::new(&tokenizer, None);
        let options = QuizOptions {
            suite: QuizSuite::Tracking,
            haystack: HaystackKind::Repeat,
            book: None,
            value: NeedleValue::Number,
            length: 6000,
            questions: 2,
            seed: 4,
        };
        let quiz = options.quiz(prompter, 1)?;
        assert_eq!(quiz, options.quiz(prompter, 1)?);
        let (context, questions) = texts(prompter, &quiz);
        for (question, text) in quiz.questions.iter().zip(questions) {
            let mut value = text
                .rsplit(' ')
                .nth(2)
                .expect("the lead ends in `NUMBER are VAR`")
                .to_owned();
            assert_eq!(question.expected.len(), VARIABLES);
            let mut from = 0;
            for name in &question.expected {
                let line = format!("VAR {name} = {value}.");
                let at = context[from..]
                    .find(&line)
                    .expect("each follows the one before it");
                from += at + line.len();
                assert!(!text.contains(name.as_str()));
                value = format!("VAR {name}");
            }
        }
        Ok(())
    }
}
