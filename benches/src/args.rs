//! The command line, in the words of llama-bench where it has them.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use longwave_cli::backend::{BackendName, Choice};
use longwave_cli::kv::KvPolicy;
use longwave_contract::DType;

use crate::compare::CompareArguments;
use crate::ops::OpsArguments;
use crate::requests::RequestsArguments;
use crate::serve::ServeArguments;

/// Measure how fast a model is taken through a prompt (pp) and continued (tg), on several backends and with several caches.
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
pub struct Arguments {
    /// Say nothing on standard error but errors
    #[arg(short, long, global = true, display_order = 900)]
    pub quiet: bool,
    /// Other things to do
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What is measured
    #[command(flatten)]
    pub tokens: TokenArguments,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure each op at the shapes of a model
    Ops(OpsArguments),
    /// Print how many times as fast the second of two recorded results is
    Compare(CompareArguments),
    /// Measure requests that share an engine: how much more many decode than one, and who waits for whom
    Requests(RequestsArguments),
    /// Measure what users of a server with OpenAI's interface wait for
    Serve(ServeArguments),
}

/// A benchmark of tokens.
#[derive(Args, Debug)]
pub struct TokenArguments {
    /// The model
    #[command(flatten)]
    pub subject: SubjectArguments,
    /// The devices
    #[command(flatten)]
    pub devices: DevicesArguments,
    /// Tokens of prompts; 0 for none
    #[arg(
        short = 'p',
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "512"
    )]
    pub n_prompt: Vec<u32>,
    /// Tokens to generate; 0 for none
    #[arg(
        short = 'n',
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "128"
    )]
    pub n_gen: Vec<u32>,
    /// Tokens that are in the cache before those are generated
    #[arg(
        short = 'd',
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "0"
    )]
    pub n_depth: Vec<u32>,
    /// Take prompts in at these depths too, not only from an empty cache
    #[arg(long)]
    pub prompt_at_depth: bool,
    /// Sequences of equal length that decode together; tokens per second are those of all of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub parallel: u32,
    /// How often each test is measured
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// What the cache keeps, as for `longwave run`; may be given several times
    #[arg(long, value_name = "POLICY", default_value = "dense")]
    pub kv: Vec<KvPolicy>,
    /// A text on which deltakv calibrates where it is given no codec; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with = "shape")]
    pub text: Vec<PathBuf>,
    /// Tokens of a prompt that are taken in at a time; 512 to 8,192 by device and model unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunk: Option<u32>,
    /// Measure each op of a prompt or a token on the device as well
    #[arg(long)]
    pub profile: bool,
    /// Plant this share of a choice in the next one where a policy chooses, instead of what is observed, which random weights make arbitrary;
    /// observing and choosing are done all the same
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub overlap: Option<f64>,
    /// How results are printed
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "md")]
    pub output: Format,
    /// Draw tokens per second against context as PNG files into a folder
    #[arg(long, value_name = "DIR")]
    pub plot: Option<PathBuf>,
}

/// Which model, or which shape of one.
#[derive(Args, Debug)]
pub struct SubjectArguments {
    /// A model, as for `longwave run`; smollm2:135m where neither it nor a shape is named
    #[arg(short, long, value_name = "MODEL", conflicts_with = "shape")]
    pub model: Option<String>,
    /// Use models that are on this machine only
    #[arg(long)]
    pub offline: bool,
    /// Random weights in the shape of llama-3.1-8b, qwen2.5-7b, smollm2-135m, or of a file like a Hugging Face config.json
    #[arg(long, value_name = "SHAPE", value_parser = NonEmptyStringValueParser::new())]
    pub shape: Option<String>,
    /// The type of random weights
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16")]
    pub weights: Weights,
    /// Decides random weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Which devices.
#[derive(Args, Debug)]
pub struct DevicesArguments {
    /// What runs the model
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', default_value = "auto", value_parser = backend)]
    pub backends: Vec<BackendName>,
    /// A GPU by its index or a part of its name, for the backends that have several devices
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub device: Option<String>,
}

/// The type of random weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// 16-bit floats
    F16,
    /// 8 bits, a scale for 32 weights
    Q8,
    /// 4 bits, a scale and a minimum for 32 weights
    Q4,
}

impl Weights {
    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Weights::F16 => DType::F16,
            Weights::Q8 => DType::Q8G32,
            Weights::Q4 => DType::Q4,
        }
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A Markdown table
    Md,
    /// Comma-separated values
    Csv,
    /// A list of objects
    Json,
    /// An object a line
    Jsonl,
}

fn share(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.parse().ok();
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is no share from 0 to 1"))
}

fn backend(name: &str) -> Result<BackendName, String> {
    BackendName::from_str(name, true).map_err(|_| {
        let known = BackendName::value_variants().iter();
        let known =
            known.filter_map(|backend| Some(backend.to_possible_value()?.get_name().to_owned()));
        let known: Vec<String> = known.collect();
        format!(
            "there is no backend `{name}`; expected {}",
            known.join(", ")
        )
    })
}

impl DevicesArguments {
    /// The device of each backend, each once.
    ///
    /// # Errors
    /// A backend has no such device, or none at all.
    pub fn choices(&self) -> Result<Vec<Choice>> {
        // The processor is one device, whatever GPU is asked for beside it.
        let only_cpu = self.backends.iter().all(|name| *name == BackendName::Cpu);
        let mut choices: Vec<Choice> = Vec::new();
        for &name in &self.backends {
            let device = self.device.as_deref();
            let device = device.filter(|_| only_cpu || name != BackendName::Cpu);
            let choice = Choice::of(name, device)?;
            if !choices.iter().any(|known| known.device == choice.device) {
                choices.push(choice);
            }
        }
        Ok(choices)
    }
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Whether tokens are generated one by one, or taken in as a prompt.
    pub generates: bool,
    /// How many.
    pub tokens: u32,
    /// Tokens in the cache before.
    pub depth: u32,
    /// Sequences that do so together; prompts are of one.
    pub sequences: u32,
}

impl Test {
    /// Tokens in the cache at the end.
    pub fn end(&self) -> u64 {
        u64::from(self.start()) + u64::from(self.tokens)
    }

    /// Tokens in the cache at the beginning: nothing can be generated without one.
    pub fn start(&self) -> u32 {
        self.depth.max(u32::from(self.generates))
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.generates { "tg" } else { "pp" };
        write!(f, "{kind}{}", self.tokens)?;
        if self.depth > 0 {
            write!(f, " @ d{}", self.depth)?;
        }
        match self.sequences {
            0 | 1 => Ok(()),
            sequences => write!(f, " x{sequences}"),
        }
    }
}

impl TokenArguments {
    /// What is measured: by depth, so that each depth is reached once, and prompts first.
    ///
    /// # Errors
    /// There is nothing to measure.
    pub fn tests(&self) -> Result<Vec<Test>> {
        let sorted = |numbers: &[u32]| {
            let mut numbers = numbers.to_vec();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let mut tests = Vec::new();
        let mut add = |generates, counts: &[u32], depth| {
            let counts = sorted(counts).into_iter().filter(|tokens| *tokens > 0);
            tests.extend(counts.map(|tokens| Test {
                generates,
                tokens,
                depth,
                sequences: if generates { self.parallel } else { 1 },
            }));
        };
        add(false, &self.n_prompt, 0);
        for depth in sorted(&self.n_depth) {
            if self.prompt_at_depth && depth > 0 {
                add(false, &self.n_prompt, depth);
            }
            add(true, &self.n_gen, depth);
        }
        ensure!(
            !tests.is_empty(),
            "nothing is to be measured: -p and -n are 0"
        );
        Ok(tests)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    fn names(line: &str) -> Vec<String> {
        let tests = parse(line).expect(line).tokens.tests().expect(line);
        tests.iter().map(Test::to_string).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn tests_are_named_as_llama_bench_names_them() {
        assert_eq!(names("bench"), ["pp512", "tg128"]);
        assert_eq!(
            names("bench -p 4096,512 -n 128,0 -d 16384,0,16384"),
            ["pp512", "pp4096", "tg128", "tg128 @ d16384"]
        );
        assert_eq!(
            names("bench -p 8 -n 0 -d 0,64 --prompt-at-depth"),
            ["pp8", "pp8 @ d64"]
        );
        assert_eq!(
            names("bench -p 8 -n 4 -d 64 --parallel 16"),
            ["pp8", "tg4 @ d64 x16"]
        );
        assert!(
            parse("bench -p 0 -n 0")
                .expect("it is read")
                .tokens
                .tests()
                .is_err()
        );
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let refused = |line: &str| parse(line).expect_err(line).to_string();
        assert!(refused("bench --backends abacus").contains("auto, cpu, cuda, wgpu"));
        assert!(refused("bench -m x --shape y").contains("cannot be used with"));
        assert!(refused("bench --overlap 1.5").contains("from 0 to 1"));
        assert!(refused("bench -r 0").contains('0'));
        assert!(refused("bench -o xml").contains("jsonl"));
        assert!(refused("bench --kv nonsense").contains("dense"));
    }
}
