//! The command line, and flags that several subcommands share.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use longwave_runtime::sample::SamplingParams;

use crate::backend::BackendName;
use crate::calibrate::CalibrateArguments;
use crate::chat::ChatArguments;
use crate::devices::DevicesArguments;
use crate::eval::EvalArguments;
use crate::inspect::InspectArguments;
use crate::kv::KvPolicy;
use crate::logits::LogitsArguments;
use crate::plan::PlanArguments;
use crate::pull::PullArguments;
use crate::run::RunArguments;
use crate::serve::ServeArguments;
use crate::trace::TraceArguments;

/// Long-context language models on the processor and on GPUs.
#[derive(Debug, Parser)]
#[command(name = "longwave", version, max_term_width = 100)]
pub struct Arguments {
    /// Say nothing on standard error but errors
    #[arg(short, long, global = true, display_order = 900)]
    pub quiet: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer a prompt
    Run(RunArguments),
    /// Talk with a model
    Chat(ChatArguments),
    /// Fetch a model and print where it lies
    Pull(PullArguments),
    /// List the devices that models can run on
    Devices(DevicesArguments),
    /// Describe a model without loading it
    Inspect(InspectArguments),
    /// Print the largest logits after some tokens
    Logits(LogitsArguments),
    /// Find the first op at which two backends disagree
    Trace(TraceArguments),
    /// Fit a codec to a model, for the policy deltakv
    Calibrate(CalibrateArguments),
    /// Compare policies with dense attention on the same text
    Eval(EvalArguments),
    /// Serve a model over HTTP
    Serve(ServeArguments),
    /// Say what fits into a device's memory
    Plan(PlanArguments),
}

/// Which model.
#[derive(Args, Debug)]
pub struct ModelArguments {
    /// An alias, a .gguf file, a directory, ORG/NAME or ORG/NAME:FILE
    #[arg(short, long, default_value = "smollm2:135m", value_name = "MODEL")]
    pub model: String,
    /// Use models that are on this machine only
    #[arg(long)]
    pub offline: bool,
}

/// Which device.
#[derive(Args, Debug)]
pub struct DeviceArguments {
    /// What runs the model; auto takes a GPU where there is one, else the processor
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub backend: BackendName,
    /// A GPU by its index or a part of its name, as `longwave devices` lists them, or `cpu`
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub device: Option<String>,
}

/// How the engine is set up.
#[derive(Args, Debug)]
pub struct EngineArguments {
    /// Tokens that prompt and answer may have together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Tokens of a prompt that are taken in at a time; 512 to 8,192 by device and model unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunk: Option<u32>,
    /// What the cache keeps and attention reads: dense, q8, q4, omnikv or deltakv, with settings after a colon
    /// (keep=N|all,sink=N,recent=N,full=A+B+...; for deltakv also codec=FILE and full_kv=f16|q8|q4|codec)
    #[arg(long, default_value_t, value_name = "POLICY")]
    pub kv: KvPolicy,
    /// A text on which deltakv calibrates where it is given no codec; may be given several times
    #[arg(long, value_name = "FILE")]
    pub text: Vec<std::path::PathBuf>,
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

/// How tokens are chosen; what is left out is as the model's makers advise.
#[derive(Args, Debug, Default)]
pub struct SamplingArguments {
    /// Always take the most likely token
    #[arg(long, conflicts_with = "temperature")]
    pub greedy: bool,
    /// Divides the logits; 0 is greedy
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Keep the N most likely tokens; 0 keeps all
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens that hold this share of probability
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep tokens that are at least this share as likely as the most likely one
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Makes tokens that occurred lately less likely; 1 changes nothing
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,
    /// Makes the choice repeatable; another one each time where it is left out
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingArguments {
    /// The flags over a model's defaults. `--greedy` takes the most likely token whatever the defaults say; `fresh_seed` serves where no
    /// `--seed` is given.
    ///
    /// # Errors
    /// The first number that is out of range, by name.
    pub fn over(
        &self,
        defaults: SamplingParams,
        fresh_seed: u64,
    ) -> anyhow::Result<SamplingParams> {
        let mut params = if self.greedy {
            SamplingParams::greedy()
        } else {
            defaults
        };
        let set = |target: &mut f32, value: Option<f32>| *target = value.unwrap_or(*target);
        set(&mut params.temperature, self.temperature);
        set(&mut params.top_p, self.top_p);
        set(&mut params.min_p, self.min_p);
        set(&mut params.repetition_penalty, self.repetition_penalty);
        params.top_k = self.top_k.unwrap_or(params.top_k);
        params.seed = self.seed.unwrap_or(fresh_seed);
        params.check().map_err(anyhow::Error::msg)?;
        Ok(params)
    }
}

/// When an answer ends.
#[derive(Args, Debug)]
pub struct EndArguments {
    /// Generate at most N tokens
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
}

/// Token ids, as `--tokens 1,2,3` gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenList(pub Vec<u32>);

impl TokenList {
    /// Reads ids that are separated by commas; spaces around them do not matter.
    ///
    /// # Errors
    /// The first piece that is no token id, or that there is none.
    pub fn parse(text: &str) -> Result<TokenList, String> {
        if text.trim().is_empty() {
            return Err("the list of tokens is empty".into());
        }
        let ids = text.split(',').enumerate().map(|(index, piece)| {
            let piece = piece.trim();
            let digits = !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_digit());
            let id = if digits { piece.parse().ok() } else { None };
            id.ok_or_else(|| {
                format!(
                    "token {} is `{piece}`, expected a number from 0 to {}",
                    index + 1,
                    u32::MAX
                )
            })
        });
        ids.collect::<Result<_, _>>().map(TokenList)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    fn kind(line: &str) -> ErrorKind {
        parse(line).expect_err(line).kind()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_interfaces_of_other_programs_are_understood() -> Result<(), clap::Error> {
        let run = parse(
            "longwave run -m x.gguf --tokens 504,3575,282 --greedy --max-tokens 24 --backend wgpu --json",
        )?;
        let Command::Run(run) = run.command else {
            panic!("not a run")
        };
        assert_eq!(run.tokens, Some(TokenList(vec![504, 3575, 282])));
        assert_eq!(
            (run.end.max_tokens, run.device.backend, run.json),
            (Some(24), BackendName::Wgpu, true)
        );
        assert!(run.sampling.greedy);
        let logits = parse(
            "longwave logits -m x.gguf --tokens 504,3575,282 --top 20 --backend cpu --device cpu --json",
        )?;
        assert!(matches!(logits.command, Command::Logits(logits) if logits.top == 20));
        Ok(())
    }

    #[test]
    fn a_run_needs_one_kind_of_prompt() {
        assert_eq!(kind("longwave run"), ErrorKind::MissingRequiredArgument);
        assert_eq!(
            kind("longwave run hello --tokens 1"),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(
            kind("longwave run -f x --tokens 1"),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(
            kind("longwave run hello --raw --system x"),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(
            kind("longwave run hello --raw --think on"),
            ErrorKind::ArgumentConflict
        );
        assert!(parse("longwave run -f - hello").is_ok());
        assert!(
            parse("longwave run ").is_ok(),
            "an empty prompt is refused later, by name"
        );
    }

    #[test]
    fn numbers_and_names_out_of_range_are_refused() {
        for line in [
            "--context 0",
            "--context 4294967296",
            "--chunk 0",
            "--max-tokens -1",
            "--top-k -1",
            "--seed x",
            "--temperature x",
        ] {
            assert!(
                parse(&format!("longwave run {line} hello")).is_err(),
                "{line}"
            );
        }
        for line in ["--backend metal", "--think maybe", "--stop ", "--device "] {
            assert_eq!(
                kind(&format!("longwave run hello {line}")),
                ErrorKind::InvalidValue,
                "{line}"
            );
        }
        assert_eq!(
            kind("longwave run hello --greedy --temperature 1"),
            ErrorKind::ArgumentConflict
        );
        for line in ["--kv deltakw", "--kv omnikv:keep=0"] {
            let line = format!("longwave run hello {line}");
            assert_eq!(kind(&line), ErrorKind::ValueValidation, "{line}");
        }
        let error = parse("longwave run hello --kv nonsense")
            .expect_err("there is no such policy")
            .to_string();
        assert!(
            error.contains("nonsense") && error.contains("dense"),
            "{error}"
        );
    }

    #[test]
    fn quiet_may_stand_anywhere() -> Result<(), clap::Error> {
        assert!(parse("longwave -q devices")?.quiet);
        assert!(parse("longwave devices --quiet")?.quiet);
        Ok(())
    }

    #[test]
    fn token_lists_are_checked_piece_by_piece() {
        let list = |text| TokenList::parse(text).map(|list| list.0);
        assert_eq!(list("504, 3575 ,282"), Ok(vec![504, 3575, 282]));
        assert_eq!(list("0"), Ok(vec![0]));
        assert_eq!(list("4294967295"), Ok(vec![u32::MAX]));
        for (text, expected) in [
            ("", "empty"),
            ("  ", "empty"),
            ("1,,2", "token 2 is ``"),
            ("1,2,", "token 3 is ``"),
            ("1,x", "token 2 is `x`"),
            ("-1", "token 1 is `-1`"),
            ("+1", "token 1 is `+1`"),
            ("1 2", "token 1 is `1 2`"),
            ("1.5", "token 1 is `1.5`"),
            ("4294967296", "token 1 is `4294967296`"),
            ("99999999999999999999999", "token 1 is"),
        ] {
            let error = list(text).expect_err(text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn flags_win_over_defaults() -> anyhow::Result<()> {
        let defaults = SamplingParams {
            temperature: 0.7,
            top_k: 20,
            repetition_penalty: 1.1,
            ..Default::default()
        };
        let plain = SamplingArguments::default().over(defaults.clone(), 9)?;
        assert_eq!(
            plain,
            SamplingParams {
                seed: 9,
                ..defaults.clone()
            }
        );
        let flags = SamplingArguments {
            top_k: Some(0),
            seed: Some(3),
            top_p: Some(0.5),
            ..Default::default()
        };
        let params = flags.over(defaults.clone(), 9)?;
        assert_eq!(
            (params.top_k, params.seed, params.top_p, params.temperature),
            (0, 3, 0.5, 0.7)
        );
        let greedy = SamplingArguments {
            greedy: true,
            ..Default::default()
        }
        .over(defaults, 9)?;
        assert_eq!((greedy.temperature, greedy.repetition_penalty), (0.0, 1.0));
        Ok(())
    }

    #[test]
    fn sampling_out_of_range_is_refused_by_name() {
        for value in [f32::NAN, f32::INFINITY, -1.0] {
            let flags = SamplingArguments {
                temperature: Some(value),
                ..Default::default()
            };
            let error = flags
                .over(SamplingParams::default(), 0)
                .expect_err("it is out of range")
                .to_string();
            assert!(error.contains("temperature"), "{error}");
        }
    }
}
