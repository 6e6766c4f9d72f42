//! Progress bars on standard error, where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longwave_runtime::hub::Progress;

use crate::output::{Notes, one_line};
use crate::report::bytes;

const BYTES: &str = "{msg:28!} [{wide_bar}] {binary_bytes} of {binary_total_bytes}";
const UNSIZED: &str = "{msg:28!} {spinner} {binary_bytes}, {binary_bytes_per_sec}";
const COUNT: &str = "{msg:28!} [{wide_bar}] {pos} of {len}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn bar(notes: &Notes, what: &str, total: Option<u64>, template: &str) -> ProgressBar {
    if !notes.draws() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style(template));
    bar.set_message(one_line(what));
    bar
}

/// A bar that counts bytes. Invisible where standard error is no terminal.
pub fn byte_bar(notes: &Notes, what: &str) -> ProgressBar {
    bar(notes, what, Some(0), BYTES)
}

/// A bar that counts things. Invisible where standard error is no terminal.
pub fn count_bar(notes: &Notes, what: &str, total: u64) -> ProgressBar {
    bar(notes, what, Some(total), COUNT)
}

/// Shows how a model is fetched: a bar for each file, and messages as lines.
pub struct FetchProgress<'n> {
    notes: &'n Notes,
    current: Option<(String, ProgressBar)>,
}

impl<'n> FetchProgress<'n> {
    /// Nothing is shown before something happens.
    pub fn new(notes: &'n Notes) -> Self {
        FetchProgress {
            notes,
            current: None,
        }
    }

    /// Takes one event.
    pub fn show(&mut self, event: Progress<'_>) {
        match event {
            Progress::Downloading { what, done, total } => {
                let bar = self.bar(&format!("downloading {what}"), total, true);
                total.into_iter().for_each(|total| bar.set_length(total));
                bar.set_position(done);
            }
            Progress::Verifying { what, done, total } => {
                let bar = self.bar(&format!("verifying {what}"), Some(total), false);
                bar.set_length(total);
                bar.set_position(done);
            }
            Progress::Message(message) => {
                let notes = self.notes;
                let line = one_line(message);
                match &self.current {
                    Some((_, bar)) => bar.suspend(|| notes.note(line)),
                    None => notes.note(line),
                }
            }
            _ => {}
        }
    }

    fn bar(&mut self, what: &str, total: Option<u64>, announce: bool) -> &ProgressBar {
        if self.current.as_ref().is_some_and(|(name, _)| name != what) {
            self.clear();
        }
        let notes = self.notes;
        let (_, bar) = self.current.get_or_insert_with(|| {
            // Without a terminal, a download is worth a line, since it takes long; a check of what is there is not.
            if announce && !notes.draws() {
                let size = total
                    .map(|total| format!(" ({})", bytes(total)))
                    .unwrap_or_default();
                notes.note(format_args!("{}{size}", one_line(what)));
            }
            let bar = bar(
                notes,
                what,
                total,
                if total.is_some() { BYTES } else { UNSIZED },
            );
            bar.enable_steady_tick(Duration::from_millis(200));
            (what.to_owned(), bar)
        });
        bar
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for FetchProgress<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}
