//! `longwave pull`: fetch a model and print where it lies.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::model::{self, Located};
use crate::output::{Notes, Output};

/// Fetch a model and print where it lies.
#[derive(Args, Debug)]
pub struct PullArguments {
    /// An alias, a .gguf file, a directory, ORG/NAME or ORG/NAME:FILE
    pub model: String,
    /// Use models that are on this machine only
    #[arg(long)]
    pub offline: bool,
}

impl PullArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model is unknown, or cannot be had.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let Located { path, .. } = model::locate(&self.model, self.offline, notes)?;
        Output::stdout().line(path.display())?;
        Ok(ExitCode::SUCCESS)
    }
}
