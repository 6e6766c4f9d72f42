//! Question suites: the same questions for dense attention and for every policy.

use anyhow::{Context, Result};
use longwave_runtime::engine::Engine;
use longwave_runtime::eval::{
    Answers, Footprint, HaystackKind, PairedScores, Prompter, Query, Quiz, QuizOptions, QuizSuite,
    ask,
};
use longwave_runtime::text::Tokenizer;

use super::report::{DepthReport, Example, SuiteReport};
use super::{EvalArguments, Subject};

/// All questions of one suite with one kind of haystack.
pub struct Course {
    suite: QuizSuite,
    haystack: Option<HaystackKind>,
    quizzes: Vec<Quiz>,
}

impl Course {
    /// The courses that are asked for, in order.
    ///
    /// # Errors
    /// A context is too short for its questions, or a text for the context.
    pub fn all(arguments: &EvalArguments, prompter: Prompter<'_>, text: &str) -> Result<Vec<Self>> {
        let book = (!arguments.text.is_empty())
            .then(|| longwave_runtime::eval::Book::new(text))
            .filter(|book| !book.is_empty());
        let mut courses = Vec::new();
        for suite in arguments.quiz_suites() {
            let haystacks = match suite.has_haystack() {
                true => arguments.haystack.as_slice(),
                false => &arguments.haystack[..1],
            };
            for haystack in haystacks {
                let options = QuizOptions {
                    suite,
                    haystack: haystack.kind(),
                    book: book.as_ref(),
                    value: arguments.needle.value(),
                    length: arguments.context,
                    // A number that is passed on is hard enough to follow once.
                    questions: match suite {
                        QuizSuite::Tracking => 1,
                        _ => arguments.questions,
                    },
                    seed: arguments.seed,
                };
                let quizzes = (0..arguments.samples).map(|sample| options.quiz(prompter, sample));
                courses.push(Course {
                    suite,
                    haystack: suite.has_haystack().then(|| haystack.kind()),
                    quizzes: quizzes
                        .collect::<Result<_, _>>()
                        .with_context(|| format!("--suite {}", suite.name()))?,
                });
            }
        }
        Ok(courses)
    }

    /// How many questions there are.
    pub fn questions(&self) -> usize {
        self.quizzes.iter().map(|quiz| quiz.questions.len()).sum()
    }

    /// Every token that occurs.
    pub fn tokens(&self) -> impl Iterator<Item = &[u32]> {
        self.quizzes.iter().flat_map(|quiz| {
            let questions = quiz.questions.iter();
            [quiz.context.as_slice()]
                .into_iter()
                .chain(questions.map(|question| question.tokens.as_slice()))
        })
    }

    /// Asks everyone, and adds a report to each subject.
    ///
    /// # Errors
    /// A device fails.
    pub fn run(
        &self,
        query: Query,
        dense: &mut Engine,
        subjects: &mut [Subject],
        tokenizer: &Tokenizer,
        progress: &mut dyn FnMut(),
    ) -> Result<()> {
        let mut take = |engine: &mut Engine| -> Result<Vec<Answers>> {
            let asked = self
                .quizzes
                .iter()
                .map(|quiz| Ok(ask(engine, tokenizer, quiz, query, progress)?));
            asked.collect()
        };
        let expected = take(dense)?;
        for subject in subjects {
            let answers = take(&mut subject.engine)?;
            subject
                .suites
                .push(self.report(query, &expected, &answers)?);
        }
        Ok(())
    }

    fn report(&self, query: Query, dense: &[Answers], policy: &[Answers]) -> Result<SuiteReport> {
        let mut scores = PairedScores::default();
        for ((quiz, dense), policy) in self.quizzes.iter().zip(dense).zip(policy) {
            let questions = quiz.questions.iter().zip(&dense.answers);
            scores.add(
                questions
                    .zip(&policy.answers)
                    .map(|((question, dense), policy)| (question.depth, dense.score, policy.score)),
            );
        }
        let summary = scores.summary().context("nothing was asked")?;
        let footprints: Vec<Footprint> = policy.iter().map(|answers| answers.footprint).collect();
        let footprint = Footprint::mean(&footprints);
        let depths = summary.depths.iter().map(|depth| DepthReport {
            depth: f64::from(depth.depth) / 10.0,
            questions: depth.questions,
            accuracy: depth.accuracy,
            dense: depth.dense,
        });
        Ok(SuiteReport {
            suite: self.suite.name(),
            haystack: self.haystack.map(HaystackKind::name),
            query: query.name(),
            contexts: summary.contexts,
            questions: summary.questions,
            accuracy: summary.accuracy,
            dense: summary.dense,
            difference: summary.difference,
            interval: summary.interval,
            lost: summary.lost,
            gained: summary.gained,
            p_value: summary.p_value,
            kv_ratio: footprint.kv_ratio,
            history_ratio: footprint.history_ratio,
            depths: depths.collect(),
            example: self.example(dense, policy),
        })
    }

    /// The first question where the answers are of different worth; the first of all where there is none.
    fn example(&self, dense: &[Answers], policy: &[Answers]) -> Option<Example> {
        let asked = self.quizzes.iter().flat_map(|quiz| &quiz.questions);
        let dense = dense.iter().flat_map(|answers| &answers.answers);
        let policy = policy.iter().flat_map(|answers| &answers.answers);
        let all: Vec<_> = asked.zip(dense).zip(policy).collect();
        let differs = all.iter().find(|((_, d), p)| d.score != p.score);
        let ((question, dense), policy) = differs.or(all.first())?;
        Some(Example {
            expected: question.expected.clone(),
            dense: dense.text.clone(),
            answer: policy.text.clone(),
        })
    }
}
