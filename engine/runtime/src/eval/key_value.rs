//! Retrieval from a JSON object of random UUIDs: nothing in it resembles anything else.

use super::haystack::uuid;
use super::prompter::Prompter;
use super::quiz::{Draft, Quiz, QuizOptions};
use crate::error::Error;
use crate::random::SplitMix64;

/// Keys that are spread evenly over the object.
pub(super) fn quiz(
    options: &QuizOptions<'_>,
    prompter: Prompter<'_>,
    sample: u32,
) -> Result<Quiz, Error> {
    let purpose = [options.suite as u64, u64::from(sample)];
    let mut random = SplitMix64::of(options.seed, &purpose);
    let questions = options.questions as usize;
    // Each question has its own stretch of the object, and a place within.
    let places: Vec<f64> = (0..questions)
        .map(|index| index as f64 + random.uniform())
        .collect();
    let write = |count: usize| -> Result<(String, Vec<Draft>), Error> {
        let mut random = random.clone();
        let pairs: Vec<(String, String)> = (0..count)
            .map(|_| (uuid(&mut random), uuid(&mut random)))
            .collect();
        let lines: Vec<String> = pairs
            .iter()
            .map(|(key, value)| format!("\"{key}\": \"{value}\""))
            .collect();
        let text = format!(
            "The JSON object below has random keys and values. Remember them: you will be asked for a value.\n\n{{{}}}",
            lines.join(",\n")
        );
        let drafts = places.iter().map(|place| {
            let index = ((place / questions as f64 * count as f64) as usize).min(count - 1);
            let (key, value) = &pairs[index];
            Draft {
                question: format!(
                    "What is the value of the key \"{key}\" in the JSON object above?"
                ),
                lead: format!("\"{key}\": \""),
                expected: vec![value.clone()],
                depth: Some((10.0 * index as f64 / (count - 1).max(1) as f64).round() as u32),
            }
        });
        Ok((text, drafts.collect()))
    };
    options.fill(prompter, questions.max(2), &write)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::eval::testing::{texts, tokenizer};
    use crate::eval::{HaystackKind, NeedleValue, QuizSuite};

    #[test]
    fn keys_are_distinct_spread_and_paired_with_their_values() -> Result<(), Error> {
        let tokenizer = tokenizer();
        let prompter = Prompter::new(&tokenizer, None);
        let options = QuizOptions {
            suite: QuizSuite::KeyValue,
            haystack: HaystackKind::Book,
            book: None,
            value: NeedleValue::Number,
            length: 8000,
            questions: 20,
            seed: 1,
        };
        let quiz = options.quiz(prompter, 0)?;
        assert_eq!(quiz, options.quiz(prompter, 0)?);
        assert!(
            quiz.tokens() <= 8000 && quiz.tokens() > 7800,
            "{}",
            quiz.tokens()
        );
        let (context, questions) = texts(prompter, &quiz);
        let object = &context[context.find('{').expect("there is an object")..];
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(object).expect("it is JSON");
        for (question, text) in quiz.questions.iter().zip(&questions) {
            let key = text.split('"').nth(1).expect("the key is quoted");
            assert_eq!(object[key].as_str(), Some(question.expected[0].as_str()));
            assert_eq!(context.matches(question.expected[0].as_str()).count(), 1);
        }
        let values: HashSet<&String> = quiz
            .questions
            .iter()
            .flat_map(|question| &question.expected)
            .collect();
        assert_eq!(values.len(), 20);
        let depths: HashSet<_> = quiz
            .questions
            .iter()
            .map(|question| question.depth)
            .collect();
        assert!(depths.len() >= 9, "{depths:?}");
        let short = QuizOptions {
            length: 1000,
            ..options
        };
        assert!(short.quiz(prompter, 0).is_err());
        Ok(())
    }
}
