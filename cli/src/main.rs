//! The `longwave` program: long-context language models on the processor and on GPUs.
//!
//! One file per subcommand. Results go to standard output, everything else to standard error. A failure is one line that begins with
//! `error:`, and exit code 1; a command line that cannot be understood gives exit code 2.
//!
//! **Architecture invariant:** [`backend`] is the only file that names a backend.

mod args;
mod backend;
mod calibrate;
mod chat;
mod codecs;
mod context;
mod devices;
mod eval;
mod inspect;
mod kv;
mod logits;
mod model;
mod output;
mod progress;
mod prompt;
mod pull;
mod report;
mod run;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Command};
use crate::output::Notes;

fn main() -> ExitCode {
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
