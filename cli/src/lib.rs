//! What the `longwave` program consists of: a file for each subcommand, and what they share. The bench program uses the latter: backends,
//! models, policies, output, pictures.
//!
//! **Architecture invariant:** [`backend`] is the only file that names a backend.

pub mod args;
pub mod backend;
mod calibrate;
pub mod canvas;
mod chat;
pub mod codecs;
mod context;
mod devices;
mod eval;
mod inspect;
pub mod kv;
mod logits;
pub mod model;
pub mod output;
mod plan;
pub mod progress;
mod prompt;
mod pull;
pub mod report;
mod run;
mod serve;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Command};
use crate::output::Notes;

/// Runs the program with the process's arguments.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let notes = Notes::new(arguments.quiet);
    let result = match &arguments.command {
        Command::Run(arguments) => arguments.execute(&notes),
        Command::Chat(arguments) => arguments.execute(&notes),
        Command::Pull(arguments) => arguments.execute(&notes),
        Command::Devices(arguments) => arguments.execute(),
        Command::Inspect(arguments) => arguments.execute(&notes),
        Command::Logits(arguments) => arguments.execute(&notes),
        Command::Trace(arguments) => arguments.execute(&notes),
        Command::Calibrate(arguments) => arguments.execute(&notes),
        Command::Eval(arguments) => arguments.execute(&notes),
        Command::Serve(arguments) => arguments.execute(&notes),
        Command::Plan(arguments) => arguments.execute(&notes),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough, as `head` does.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            notes.error(&error);
            ExitCode::FAILURE
        }
    }
}
