//! `longwave chat`: a conversation, line by line.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use longwave_runtime::engine::EngineOptions;
use longwave_runtime::generate::{FinishReason, GenerateOptions, Session};
use longwave_runtime::sample::Sampler;
use longwave_runtime::session::SessionState;
use serde::{Deserialize, Serialize};

use crate::args::{
    DeviceArguments, EndArguments, EngineArguments, ModelArguments, SamplingArguments, Switch,
};
use crate::backend::Choice;
use crate::output::{Notes, Output};
use crate::prompt::{Conversation, Message};
use crate::report::{RunReport, count, rate};
use crate::run::{fresh_seed, generate};
use crate::{context, model};

/// A conversation whose saving takes longer than this is saved at its end only.
const LONG_SAVE: Duration = Duration::from_secs(2);

const HELP: &str = "/exit ends, /clear forgets the conversation, /system TEXT sets instructions (without TEXT: removes them)";

/// Talk with a model.
///
/// Each line is a message. Lines that begin with a slash are commands: /exit ends, /clear forgets the conversation, /system TEXT sets
/// instructions and /system removes them.
#[derive(Args, Debug)]
pub struct ChatArguments {
    /// The model
    #[command(flatten)]
    pub model: ModelArguments,
    /// Instructions that come before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Whether the model is to think before it answers, where its chat template can say so
    #[arg(long, value_enum, value_name = "SWITCH")]
    pub think: Option<Switch>,
    /// Go on with the conversation that FILE holds, cache and all, where there is one, and keep it there
    #[arg(long, value_name = "FILE")]
    pub session: Option<PathBuf>,
    /// The device
    #[command(flatten)]
    pub device: DeviceArguments,
    /// The engine
    #[command(flatten)]
    pub engine: EngineArguments,
    /// The choice of tokens
    #[command(flatten)]
    pub sampling: SamplingArguments,
    /// The end of an answer
    #[command(flatten)]
    pub end: EndArguments,
}

/// What a line of the user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    /// To answer this.
    Message(String),
    /// To end.
    Exit,
    /// To forget the conversation.
    Clear,
    /// To set or remove instructions.
    System(Option<String>),
    /// Nothing.
    Empty,
    /// A command that there is not.
    Unknown(String),
}

impl Line {
    fn parse(line: &str) -> Line {
        let line = line.trim();
        if line.is_empty() {
            return Line::Empty;
        }
        if !line.starts_with('/') {
            return Line::Message(line.to_owned());
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "/exit" | "/quit" if rest.is_empty() => Line::Exit,
            "/clear" if rest.is_empty() => Line::Clear,
            "/system" => Line::System((!rest.is_empty()).then(|| rest.to_owned())),
            _ => Line::Unknown(line.to_owned()),
        }
    }
}

/// What was said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct History {
    system: Option<String>,
    turns: Vec<Message>,
}

impl History {
    /// Everything in order, and a new message of the user.
    fn with(&self, message: &Message) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::system(text.clone()));
        system
            .chain(self.turns.iter().cloned())
            .chain([message.clone()])
            .collect()
    }
}

impl ChatArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model or device cannot be used, or input or output fail. A message that does not fit is no error at a terminal.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let choice = Choice::by(&self.device)?;
        let opened = model::open(&self.model, notes)?;
        let sampling = self
            .sampling
            .over(opened.source.sampling_defaults(), fresh_seed())?;
        let tokenizer = Arc::new(opened.source.tokenizer()?);
        let conversation = Conversation::new(&opened, Arc::clone(&tokenizer), self.think)?;
        let context = context::of_chat(self.engine.context, opened.source.config().context)?;
        let backend = choice.open(notes)?;
        let chunk = self.engine.chunk;
        let options = EngineOptions {
            chunk: chunk.unwrap_or_else(|| {
                EngineOptions::chunk_for(backend.caps(), opened.source.config())
            }),
            ..EngineOptions::single(context)
        };
        let engine = opened.engine(&backend, &self.engine.kv, &self.engine.text, options, notes)?;
        let mut sampling = sampling;
        let mut history = History::default();
        let resumed = self.session.as_deref().filter(|path| path.exists());
        let session = match resumed {
            None => Session::new(engine, tokenizer),
            Some(path) => {
                let (session, state) = Session::resume(engine, tokenizer, path)?;
                let (file, tokens) = (path.display(), session.tokens()?.len());
                history = serde_json::from_value(state.note.unwrap_or_default())
                    .with_context(|| format!("{file}: the section note holds no conversation"))?;
                if let (Some(sampler), None) = (state.sampler, self.sampling.seed) {
                    sampling.seed = sampler.params().seed;
                }
                let turns = count(history.turns.len(), "message");
                notes.note(format_args!(
                    "{file}: {turns}, {} in the cache",
                    count(tokens, "token")
                ));
                session
            }
        };
        if self.system.is_some() {
            history.system.clone_from(&self.system);
        }
        let mut chat = Chat {
            notes,
            conversation,
            session,
            history,
            file: self.session.clone(),
            saves_late: false,
            options: GenerateOptions {
                sampling,
                max_tokens: self.end.max_tokens,
                stop: self.end.stop.clone(),
                ignore_end: false,
            },
            model: opened.name,
            context,
            interactive: io::stdin().is_terminal(),
        };
        if chat.interactive {
            notes.note(format_args!(
                "{}, context of {context} tokens. {HELP}.",
                chat.model
            ));
        }
        let talked = chat.talk();
        // What was said is kept, however it ended.
        if chat.saves_late {
            chat.save()?;
        }
        talked?;
        Ok(ExitCode::SUCCESS)
    }
}

struct Chat<'n> {
    notes: &'n Notes,
    conversation: Conversation,
    session: Session,
    history: History,
    /// Where the conversation is kept.
    file: Option<PathBuf>,
    /// Whether saving takes so long that it waits for the end.
    saves_late: bool,
    options: GenerateOptions,
    model: String,
    context: u32,
    interactive: bool,
}

impl Chat<'_> {
    /// Answers line by line until the input ends.
    fn talk(&mut self) -> Result<()> {
        let mut output = Output::stdout();
        let mut line = String::new();
        loop {
            if self.interactive {
                output.text("> ")?;
            }
            line.clear();
            let read = io::stdin()
                .lock()
                .read_line(&mut line)
                .context("standard input cannot be read as text")?;
            if read == 0 {
                return if self.interactive {
                    output.end_line()
                } else {
                    Ok(())
                };
            }
            match Line::parse(&line) {
                Line::Empty => {}
                Line::Exit => return Ok(()),
                Line::Clear => {
                    self.history.turns.clear();
                    self.notes.note("the conversation is forgotten");
                }
                Line::System(text) => {
                    self.notes.note(if text.is_some() {
                        "the instructions are set"
                    } else {
                        "the instructions are removed"
                    });
                    self.history.system = text;
                }
                Line::Unknown(command) => {
                    self.recover(anyhow!("there is no command {command:?}: {HELP}"))?
                }
                Line::Message(text) => self.answer(Message::user(text), &mut output)?,
            }
        }
    }

    fn answer<W: io::Write>(&mut self, message: Message, output: &mut Output<W>) -> Result<()> {
        let prompt = match self.conversation.tokens(&self.history.with(&message)) {
            Ok(prompt) => prompt,
            Err(error) => return self.recover(error),
        };
        if prompt.len() > self.context as usize {
            let (tokens, context) = (prompt.len(), self.context);
            return self.recover(anyhow!(
                "the conversation has {tokens} tokens, which do not fit into the context of {context}: /clear forgets it, --context makes room"
            ));
        }
        let summary = generate(
            &mut self.session,
            &prompt,
            self.options.clone(),
            self.notes,
            &mut |text| output.text(text),
        )?;
        output.end_line()?;
        // The next answer is another draw.
        self.options.sampling.seed = self.options.sampling.seed.wrapping_add(1);
        self.history
            .turns
            .extend([message, Message::assistant(summary.text.clone())]);
        let report = RunReport::new(
            &self.model,
            &self.session,
            summary,
            self.options.sampling.seed,
        )?;
        let cut_short = report
            .finish
            .filter(|&finish| finish != FinishReason::EndOfSequence.name());
        self.notes.note(format_args!(
            "[{} of context {}, {} from the cache; {}, {}{}]",
            count(report.prompt_tokens, "token"),
            self.context,
            report.cached_tokens,
            count(report.tokens.len(), "token"),
            rate(report.decode_tokens_per_second),
            cut_short
                .map(|finish| format!(", finished by {finish}"))
                .unwrap_or_default(),
        ));
        if !self.saves_late {
            self.save()?;
        }
        Ok(())
    }

    /// Keeps the conversation in its file, where it has one.
    fn save(&mut self) -> Result<()> {
        let Some(path) = &self.file else {
            return Ok(());
        };
        let start = Instant::now();
        let state = SessionState {
            sampler: Some(Sampler::new(self.options.sampling.clone())),
            note: Some(serde_json::to_value(&self.history)?),
        };
        self.session.save(path, &state)?;
        if start.elapsed() > LONG_SAVE && !self.saves_late {
            let file = path.display();
            self.notes.note(format_args!(
                "saving to {file} takes {:.1} s: from now on only at the end",
                start.elapsed().as_secs_f64()
            ));
            self.saves_late = true;
        }
        Ok(())
    }

    /// At a terminal the user can do better; a script cannot.
    fn recover(&self, error: anyhow::Error) -> Result<()> {
        if self.interactive {
            self.notes.error(&error);
            return Ok(());
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let cases = [
            ("hello there\n", Line::Message("hello there".into())),
            (" \r\n", Line::Empty),
            ("/exit\n", Line::Exit),
            ("/quit", Line::Exit),
            ("/clear", Line::Clear),
            (
                "/system  Be brief. \n",
                Line::System(Some("Be brief.".into())),
            ),
            ("/system", Line::System(None)),
            ("/clear all", Line::Unknown("/clear all".into())),
            ("/systematic", Line::Unknown("/systematic".into())),
            ("/", Line::Unknown("/".into())),
        ];
        for (line, expected) in cases {
            assert_eq!(Line::parse(line), expected, "{line:?}");
        }
    }

    #[test]
    fn instructions_stay_before_the_turns() {
        let history = History {
            system: Some("Be brief.".into()),
            turns: vec![Message::user("a".into()), Message::assistant("b".into())],
        };
        let roles: Vec<String> = history
            .with(&Message::user("c".into()))
            .iter()
            .map(|message| message.content.clone())
            .collect();
        assert_eq!(roles, ["Be brief.", "a", "b", "c"]);
        assert_eq!(History::default().with(&Message::user("c".into())).len(), 1);
    }
}
