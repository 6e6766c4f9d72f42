//! `longwave run`: answer one prompt.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::{ArgGroup, Args};
use longwave_runtime::engine::EngineOptions;
use longwave_runtime::generate::{GenerateOptions, Generation, Session, Summary};

use crate::args::{
    DeviceArguments, EndArguments, EngineArguments, ModelArguments, SamplingArguments, Switch,
    TokenList,
};
use crate::backend::Choice;
use crate::output::{Notes, Output};
use crate::progress::count_bar;
use crate::prompt::{Conversation, Message};
use crate::report::RunReport;
use crate::{context, model};

/// Answer a prompt.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("input").args(["prompt", "file", "tokens"]).multiple(true).required(true))]
pub struct RunArguments {
    /// What to answer
    pub prompt: Option<String>,
    /// Read the prompt from a file, `-` for standard input; PROMPT, where there is one, follows after an empty line
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Token ids for a prompt, separated by commas, taken as they are: nothing is added, and an end-of-sequence token does not end the
    /// answer
    #[arg(long, value_name = "IDS", value_parser = TokenList::parse, allow_hyphen_values = true)]
    #[arg(conflicts_with_all = ["prompt", "file", "raw", "system", "think"])]
    pub tokens: Option<TokenList>,
    /// The model
    #[command(flatten)]
    pub model: ModelArguments,
    /// Continue the prompt as plain text, without the model's chat template
    #[arg(long, conflicts_with_all = ["system", "think"])]
    pub raw: bool,
    /// Instructions that come before the prompt
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Whether the model is to think before it answers, where its chat template can say so
    #[arg(long, value_enum, value_name = "SWITCH")]
    pub think: Option<Switch>,
    /// The device
    #[command(flatten)]
    pub device: DeviceArguments,
    /// The engine
    #[command(flatten)]
    pub engine: EngineArguments,
    /// The choice of tokens
    #[command(flatten)]
    pub sampling: SamplingArguments,
    /// The end
    #[command(flatten)]
    pub end: EndArguments,
    /// Print one JSON object when done, instead of the text as it comes
    #[arg(long)]
    pub json: bool,
}

impl RunArguments {
    /// Does it.
    ///
    /// # Errors
    /// The prompt cannot be read or is too long, the model or device cannot be used, or standard output cannot be written.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let text = self.text()?;
        let choice = Choice::by(&self.device)?;
        let opened = model::open(&self.model, notes)?;
        let sampling = self
            .sampling
            .over(opened.source.sampling_defaults(), fresh_seed())?;
        let tokenizer = Arc::new(opened.source.tokenizer()?);
        let prompt = match (&self.tokens, text) {
            (Some(TokenList(tokens)), _) => tokens.clone(),
            (None, Some(text)) if self.raw => crate::prompt::raw(&tokenizer, &text)?,
            (None, text) => {
                let conversation = Conversation::new(&opened, Arc::clone(&tokenizer), self.think)?;
                conversation.tokens(&self.messages(text.unwrap_or_default()))?
            }
        };
        opened.check_tokens(&prompt)?;
        let context = context::of_run(
            prompt.len(),
            self.end.max_tokens,
            self.engine.context,
            opened.source.config().context,
        )?;
        let backend = choice.open(notes)?;
        let chunk = self.engine.chunk;
        let options = EngineOptions {
            chunk: chunk.unwrap_or_else(|| {
                EngineOptions::chunk_for(backend.caps(), opened.source.config())
            }),
            ..EngineOptions::single(context)
        };
        let engine = opened.engine(&backend, &self.engine.kv, &self.engine.text, options, notes)?;
        let mut session = Session::new(engine, tokenizer);
        let seed = sampling.seed;
        let options = GenerateOptions {
            sampling,
            max_tokens: self.end.max_tokens,
            stop: self.end.stop.clone(),
            ignore_end: self.tokens.is_some(),
        };
        let mut output = Output::stdout();
        let mut show = |text: &str| if self.json { Ok(()) } else { output.text(text) };
        let summary = generate(&mut session, &prompt, options, notes, &mut show)?;
        let report = RunReport::new(&opened.name, &session, summary, seed)?;
        if self.json {
            output.json(&report)?;
        } else {
            output.end_line()?;
            notes.note(format_args!("\n{}", report.block()));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The prompt's text: the file, then what stands on the command line. `None` where tokens are given.
    fn text(&self) -> Result<Option<String>> {
        if self.tokens.is_some() {
            return Ok(None);
        }
        let file = self.file.as_deref().map(read).transpose()?;
        let text = match (file, &self.prompt) {
            (Some(file), Some(prompt)) => format!("{file}\n\n{prompt}"),
            (Some(text), None) => text,
            (None, prompt) => prompt.clone().unwrap_or_default(),
        };
        ensure!(!text.is_empty(), "the prompt is empty");
        Ok(Some(text))
    }

    fn messages(&self, prompt: String) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::system(text.clone()));
        system.chain([Message::user(prompt)]).collect()
    }
}

/// Reads a prompt file without its last line break; `-` is standard input.
fn read(path: &Path) -> Result<String> {
    let mut text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
            .context("standard input cannot be read as text")?
    } else {
        std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read as text", path.display()))?
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Takes a prompt in and passes its answer on piece by piece.
///
/// # Errors
/// The device fails, a parameter is out of range, or `show` fails.
pub fn generate(
    session: &mut Session,
    prompt: &[u32],
    options: GenerateOptions,
    notes: &Notes,
    show: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Summary> {
    let bar = count_bar(notes, "reading the prompt", prompt.len() as u64);
    let started = session.generate(prompt, options, &mut |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    let mut generation: Generation<'_> = started?;
    for piece in &mut generation {
        show(&piece?.text)?;
    }
    Ok(generation.finish()?)
}

/// A seed that differs from run to run, and that a person can type.
pub fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Arguments, Command};

    fn run(arguments: &[&str]) -> Result<RunArguments> {
        let line = ["longwave", "run"].iter().chain(arguments);
        match Arguments::try_parse_from(line)?.command {
            Command::Run(run) => Ok(run),
            other => anyhow::bail!("not a run: {other:?}"),
        }
    }

    #[test]
    fn a_file_comes_before_the_prompt() -> Result<()> {
        let path = std::env::temp_dir().join(format!("longwave-prompt-{}", std::process::id()));
        std::fs::write(&path, "line 1\nline 2\r\n")?;
        let file = path.to_str().context("the temporary path is not UTF-8")?;
        let both = run(&["-f", file, "Why?"])?.text()?;
        let alone = run(&["-f", file])?.text()?;
        std::fs::remove_file(&path)?;
        assert_eq!(both.as_deref(), Some("line 1\nline 2\n\nWhy?"));
        assert_eq!(alone.as_deref(), Some("line 1\nline 2"));
        Ok(())
    }

    #[test]
    fn an_unreadable_or_empty_prompt_is_an_error() -> Result<()> {
        let missing = run(&["-f", "/no/such/file"])?
            .text()
            .expect_err("it is missing")
            .to_string();
        assert!(missing.contains("/no/such/file"), "{missing}");
        let empty = run(&[""])?.text().expect_err("it is empty").to_string();
        assert!(empty.contains("empty"), "{empty}");
        assert_eq!(run(&["--tokens", "1"])?.text()?, None);
        Ok(())
    }

    #[test]
    fn instructions_come_first() -> Result<()> {
        let messages = run(&["--system", "Be brief.", "Why?"])?.messages("Why?".into());
        assert_eq!(
            messages,
            [
                Message::system("Be brief.".into()),
                Message::user("Why?".into())
            ]
        );
        Ok(())
    }
}
