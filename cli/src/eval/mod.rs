//! `longwave eval`: how far policies are from dense attention.

mod course;
mod plot;
mod predict;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use longwave_contract::Backend;
use longwave_runtime::engine::{Engine, EngineOptions};
use longwave_runtime::eval::{
    ANSWER_TOKENS, Comparison, Footprint, HaystackKind, NeedleValue, Prompter, Query, QuizSuite,
    windows,
};
use longwave_runtime::model::{Model, ModelConfig};
use longwave_runtime::text::Tokenizer;

use self::course::Course;
use self::report::{PolicyReport, Report, SuiteReport};
use crate::args::{DeviceArguments, ModelArguments};
use crate::backend::Choice;
use crate::codecs::{Ground, Policies};
use crate::kv::KvPolicy;
use crate::model::{self, Opened};
use crate::output::{Notes, Output, check_target};
use crate::progress::count_bar;

/// Compare policies with dense attention on the same input.
///
/// `kld` and `ppl` take windows of a text in up to their last tokens, which are then predicted one by one, dense and by every policy, with the
/// text's own tokens as input. The other suites ask questions about contexts that are made from a seed, and compare the greedy answers.
#[derive(Args, Debug)]
pub struct EvalArguments {
    /// The model
    #[command(flatten)]
    pub model: ModelArguments,
    /// A policy to compare, as for `run`; may be given several times
    #[arg(long, required = true, value_name = "POLICY")]
    pub kv: Vec<KvPolicy>,
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kld,ppl",
        value_name = "NAMES"
    )]
    pub suite: Vec<Suite>,
    /// A text to predict, and prose for haystacks, which is made up where there is none; may be given several times
    #[arg(long, value_name = "FILE")]
    pub text: Vec<PathBuf>,
    /// A text on which deltakv calibrates where it is given no codec; may be given several times
    #[arg(long, value_name = "FILE")]
    pub calibrate: Vec<PathBuf>,
    /// Tokens of a window before those that are predicted; tokens of a context with its question
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: u32,
    /// Tokens of a window that are predicted
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub predict: u32,
    /// Windows of the text; contexts of each suite and haystack
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Questions about each context; `tracking` asks one
    #[arg(long, default_value_t = 11, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub questions: u32,
    /// What contexts consist of beside what is asked for; `kvretrieval` has a JSON object instead
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "book,repeat,uuid",
        value_name = "NAMES"
    )]
    pub haystack: Vec<Haystack>,
    /// What needles hold
    #[arg(long, value_enum, default_value = "number", value_name = "KIND")]
    pub needle: Needle,
    /// Whether a question is known when its context is taken in
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "known,unknown",
        value_name = "WHEN"
    )]
    pub query: Vec<When>,
    /// Shifts the windows, and decides the questions
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// The device
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Write the result to a file as JSON
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Draw quality against bytes and accuracy by depth as PNG files into a folder
    #[arg(long, value_name = "DIR")]
    pub plot: Option<PathBuf>,
    /// Print the result as JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Divergence of the next-token distribution, and how often the likeliest token is the same
    Kld,
    /// Perplexity of the text
    Ppl,
    /// Values that single sentences of a haystack name
    Niah,
    /// The same, with three more sentences for each whose keys begin with the same word
    Multikey,
    /// Values of keys in a JSON object of random UUIDs
    Kvretrieval,
    /// The names of the variables that a number was passed on to
    Tracking,
}

impl Suite {
    /// The questions, where it asks any.
    fn quiz(self) -> Option<QuizSuite> {
        match self {
            Suite::Kld | Suite::Ppl => None,
            Suite::Niah => Some(QuizSuite::Needle),
            Suite::Multikey => Some(QuizSuite::MultiKey),
            Suite::Kvretrieval => Some(QuizSuite::KeyValue),
            Suite::Tracking => Some(QuizSuite::Tracking),
        }
    }
}

/// What a context consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Haystack {
    /// Prose
    Book,
    /// The same few sentences over and over
    Repeat,
    /// Lines of random UUIDs
    Uuid,
}

impl Haystack {
    /// The runtime's word.
    fn kind(self) -> HaystackKind {
        match self {
            Haystack::Book => HaystackKind::Book,
            Haystack::Repeat => HaystackKind::Repeat,
            Haystack::Uuid => HaystackKind::Uuid,
        }
    }
}

/// What a needle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Needle {
    /// Seven digits
    Number,
    /// A UUID
    Uuid,
}

impl Needle {
    /// The runtime's word.
    fn value(self) -> NeedleValue {
        match self {
            Needle::Number => NeedleValue::Number,
            Needle::Uuid => NeedleValue::Uuid,
        }
    }
}

/// When a question is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// With the context, which is taken in afresh for every question
    Known,
    /// After the context has been taken in, and perhaps compressed
    Unknown,
}

impl When {
    /// The runtime's word.
    fn query(self) -> Query {
        match self {
            When::Known => Query::Known,
            When::Unknown => Query::Unknown,
        }
    }
}

/// A policy under comparison.
struct Subject {
    name: String,
    engine: Engine,
    comparison: Comparison,
    /// After the last window.
    footprint: Option<Footprint>,
    suites: Vec<SuiteReport>,
}

impl EvalArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model, a policy, a text or the device cannot be used, the text is too short, or a context for its questions.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        ensure!(
            !self.predicts() || !self.text.is_empty(),
            "--suite kld and ppl predict a text: expected --text FILE"
        );
        let choice = Choice::by(&self.device)?;
        let opened = model::open(&self.model, notes)?;
        let config = opened.source.config();
        let length = self.length(config)?;
        for kv in &self.kv {
            kv.check(config.layers)?;
        }
        self.check_targets()?;
        let tokenizer = opened.source.tokenizer()?;
        let texts = self.texts()?;
        let tokens = self.tokens(&opened, &tokenizer, &texts)?;
        let windows = match self.predicts() {
            false => Vec::new(),
            true => windows(
                tokens.len(),
                (self.context + self.predict) as usize,
                self.samples as usize,
                self.seed,
            )?,
        };
        let template = opened.source.chat_template()?;
        let prompter = Prompter::new(&tokenizer, template.as_ref());
        let courses = Course::all(self, prompter, &texts.join("\n\n"))?;
        for tokens in courses.iter().flat_map(Course::tokens) {
            opened.check_tokens(tokens)?;
        }

        let backend = choice.open(notes)?;
        let options = EngineOptions {
            engines: self.kv.len() as u32 + 1,
            chunk: EngineOptions::chunk_for(backend.caps(), opened.source.config()).min(length),
            ..EngineOptions::single(length)
        };
        let model = opened.load(&backend, &options, notes)?;
        let mut policies = Policies::new(
            &backend,
            &model,
            Ground::Texts(&opened, &self.calibrate),
            notes,
        );
        let mut engine = |kv: &KvPolicy| -> Result<Engine> {
            make(&backend, &model, &mut policies, kv, options.clone())
        };
        let mut dense = engine(&KvPolicy::Dense)?;
        let mut subjects = Vec::new();
        for kv in &self.kv {
            subjects.push(Subject {
                name: kv.to_string(),
                engine: engine(kv)?,
                comparison: Comparison::default(),
                footprint: None,
                suites: Vec::new(),
            });
        }
        let predicted = u64::from(self.context + self.predict) * windows.len() as u64;
        let bar = count_bar(notes, "predicting", predicted);
        for window in windows {
            let (prompt, rest) = tokens[window].split_at(self.context as usize);
            let outcome = predict::compare(&mut dense, &mut subjects, prompt, rest, &mut |done| {
                bar.inc(done);
            });
            if outcome.is_err() {
                bar.finish_and_clear();
            }
            outcome?;
        }
        bar.finish_and_clear();
        let asked: usize = courses.iter().map(Course::questions).sum();
        let asked = asked * self.query.len() * (subjects.len() + 1);
        let bar = count_bar(notes, "asking", asked as u64);
        for course in &courses {
            for when in &self.query {
                let (query, done) = (when.query(), &mut || bar.inc(1));
                let outcome = course.run(query, &mut dense, &mut subjects, &tokenizer, done);
                if outcome.is_err() {
                    bar.finish_and_clear();
                }
                outcome?;
            }
        }
        bar.finish_and_clear();
        self.publish(&self.report(&opened, &*backend, subjects)?)
    }

    /// Whether a text is predicted.
    fn predicts(&self) -> bool {
        self.suite.iter().any(|suite| suite.quiz().is_none())
    }

    /// The suites that ask questions.
    fn quiz_suites(&self) -> impl Iterator<Item = QuizSuite> {
        self.suite.iter().filter_map(|suite| suite.quiz())
    }

    /// Tokens that an engine must have room for.
    fn length(&self, config: &ModelConfig) -> Result<u32> {
        let within = |more: u32, what: &str| -> Result<u32> {
            let length = self.context.saturating_add(more);
            ensure!(
                length <= config.context,
                "--context {} and {what} are beyond the model's context of {} tokens",
                self.context,
                config.context
            );
            Ok(length)
        };
        let mut length = 0;
        if self.predicts() {
            length = within(self.predict, &format!("--predict {}", self.predict))?;
        }
        if self.quiz_suites().next().is_some() {
            let answer = within(
                ANSWER_TOKENS,
                &format!("{ANSWER_TOKENS} tokens of an answer"),
            )?;
            length = length.max(answer);
        }
        Ok(length)
    }

    /// Whether results can be written: asked before hours of work, not after.
    fn check_targets(&self) -> Result<()> {
        if let Some(path) = &self.output {
            check_target(path)?;
        }
        if let Some(folder) = &self.plot {
            ensure!(
                folder.is_dir(),
                "--plot {}: there is no such folder",
                folder.display()
            );
            let probe = folder.join(format!(".longwave-{}", std::process::id()));
            std::fs::write(&probe, [])
                .and_then(|()| std::fs::remove_file(&probe))
                .with_context(|| format!("--plot {} cannot be written to", folder.display()))?;
        }
        Ok(())
    }

    fn texts(&self) -> Result<Vec<String>> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| format!("{} cannot be read as text", path.display()))
        };
        self.text.iter().map(read).collect()
    }

    /// All texts as tokens, one after another; none where they are not predicted.
    fn tokens(&self, opened: &Opened, tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        if self.predicts() {
            for (path, text) in self.text.iter().zip(texts) {
                let encoded = tokenizer.encode(text, false, false);
                tokens.extend(encoded.with_context(|| path.display().to_string())?);
            }
        }
        opened.check_tokens(&tokens)?;
        Ok(tokens)
    }

    fn report(
        &self,
        opened: &Opened,
        backend: &dyn Backend,
        subjects: Vec<Subject>,
    ) -> Result<Report> {
        let policies = subjects.into_iter().map(|subject| {
            let asked = subject.suites.first().map(|suite| Footprint {
                kv_ratio: suite.kv_ratio,
                history_ratio: suite.history_ratio,
            });
            let footprint = subject.footprint.or(asked);
            let footprint = footprint.context("nothing was compared")?;
            let predicted = subject.comparison.summary();
            let predicted = predicted.map(|summary| PolicyReport::of(summary, &self.suite));
            Ok(PolicyReport {
                policy: subject.name,
                kv_ratio: footprint.kv_ratio,
                history_ratio: footprint.history_ratio,
                suites: subject.suites,
                ..predicted.unwrap_or_default()
            })
        });
        Ok(Report {
            model: opened.name.clone(),
            backend: backend.caps().backend,
            device: backend.caps().device.clone(),
            // Names alone: where a file lies says nothing about the result.
            text: self
                .text
                .iter()
                .map(|path| path.file_name().unwrap_or_default())
                .map(|name| name.to_string_lossy().into_owned())
                .collect(),
            context: self.context,
            predict: self.predict,
            samples: self.samples,
            questions: self.questions,
            needle: self.needle.value().name(),
            seed: self.seed,
            policies: policies.collect::<Result<_>>()?,
        })
    }

    /// Files first: a reader of standard output that has gone takes nothing from them.
    fn publish(&self, report: &Report) -> Result<ExitCode> {
        if let Some(path) = &self.output {
            let text = serde_json::to_string_pretty(report)? + "\n";
            std::fs::write(path, text)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        let mut output = Output::stdout();
        if self.json {
            output.json(report)?;
        } else {
            output.text(&report.tables())?;
        }
        if let Some(folder) = &self.plot {
            plot::draw(report, folder)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn make(
    backend: &Arc<dyn Backend>,
    model: &Arc<Model>,
    policies: &mut Policies<'_>,
    kv: &KvPolicy,
    options: EngineOptions,
) -> Result<Engine> {
    let (backend, model) = (Arc::clone(backend), Arc::clone(model));
    Ok(Engine::new(backend, model, policies.policy(kv)?, options)?)
}
