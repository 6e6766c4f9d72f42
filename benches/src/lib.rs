//! Benchmarks of Longwave: the `bench` program.
//!
//! | module | holds |
//! | --- | --- |
//! | `args` | the command line |
//! | `subject` | a model or a shape, brought to a device |
//! | `station` | one backend with one policy: sequences at a depth, measured again and again |
//! | `tokens` | `bench`: tests on all stations in turn |
//! | `meter` | a backend that counts what is allocated through it |
//! | `ceiling` | what a backend's own kernels reach: bytes and multiply-adds a second |
//! | `work`, `op` | the bytes that an op must move and the arithmetic that it needs, and cases to measure it with |
//! | `ops` | `bench ops`: each op after a check against the reference |
//! | `profile` | `--profile`: the time of each op of a prompt or a token, on the device |
//! | `result`, `print` | what was measured, as tables and as JSON |
//! | `compare` | `bench compare`: two recorded results |
//! | `plot` | `--plot`: pictures |
//! | `requests` | `bench requests`: requests that share an engine |
//! | `serve` | `bench serve`: what users of a server wait for |

mod args;
mod ceiling;
mod compare;
mod meter;
mod op;
mod ops;
mod plot;
mod print;
mod profile;
mod requests;
mod result;
mod serve;
mod station;
mod subject;
mod tokens;
mod work;

use std::process::ExitCode;

use clap::Parser;
use longwave_cli::output::{Notes, is_closed};

use crate::args::{Arguments, Command};

/// Runs the program with the process's arguments.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let notes = Notes::new(arguments.quiet);
    let result = match &arguments.command {
        None => arguments.tokens.execute(&notes),
        Some(Command::Ops(arguments)) => arguments.execute(&notes),
        Some(Command::Compare(arguments)) => arguments.execute(),
        Some(Command::Requests(arguments)) => arguments.execute(&notes),
        Some(Command::Serve(arguments)) => arguments.execute(&notes),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough, as `head` does.
        Err(error) if is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            notes.error(&error);
            ExitCode::FAILURE
        }
    }
}
