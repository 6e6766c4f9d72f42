//! Standard output for results, standard error for notes, and files for either. Neither stream panics when its reader is gone.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Error, Result, ensure};
use serde::Serialize;

/// Standard output was closed by its reader: no failure, but no reason to go on either.
#[derive(Debug)]
struct Closed;

impl Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for Closed {}

/// Whether an error only says that nobody reads the output any more.
pub fn is_closed(error: &Error) -> bool {
    error.is::<Closed>()
}

/// Where results go.
pub struct Output<W: Write> {
    target: W,
    line_open: bool,
}

impl Output<io::StdoutLock<'static>> {
    /// The program's standard output.
    pub fn stdout() -> Self {
        Output::new(io::stdout().lock())
    }
}

impl<W: Write> Output<W> {
    /// Writes to `target`.
    pub fn new(target: W) -> Self {
        Output {
            target,
            line_open: false,
        }
    }

    /// Writes text as it is, and makes it visible at once.
    ///
    /// # Errors
    /// When the reader is gone ([`is_closed`]) or the text cannot be written.
    pub fn text(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.line_open = !text.ends_with('\n');
        let written = self
            .target
            .write_all(text.as_bytes())
            .and_then(|()| self.target.flush());
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Error::new(Closed),
            _ => Error::new(error).context("standard output cannot be written"),
        })
    }

    /// Writes a line.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn line(&mut self, line: impl Display) -> Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Ends a line that was begun by [`Output::text`].
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn end_line(&mut self) -> Result<()> {
        if self.line_open {
            self.text("\n")
        } else {
            Ok(())
        }
    }

    /// Writes a value as one line of JSON.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        self.line(serde_json::to_string(value)?)
    }
}

/// Where notes go: standard error, one line each, nothing but errors with `--quiet`. A closed standard error is ignored.
#[derive(Clone, Copy, Debug)]
pub struct Notes {
    quiet: bool,
    terminal: bool,
}

impl Notes {
    /// Notes on standard error, or none.
    pub fn new(quiet: bool) -> Self {
        Notes {
            quiet,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// Whether progress bars may be drawn.
    pub fn draws(&self) -> bool {
        self.terminal && !self.quiet
    }

    /// Says something that the user may want to know.
    pub fn note(&self, line: impl Display) {
        if !self.quiet {
            write_line(line);
        }
    }

    /// Says what went wrong.
    pub fn error(&self, error: &Error) {
        write_line(format_args!("error: {}", chain(error)));
    }
}

fn write_line(line: impl Display) {
    // There is nowhere left to report a failure of this.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// An error and its causes on one line. Causes that a message already quotes are left out.
fn chain(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = one_line(&cause.to_string());
        if cause.is_empty() || text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// Whether a file can be written at this place: asked before hours of work, not after.
///
/// # Errors
/// Its folder is not there, or it is a folder itself.
pub fn check_target(path: &Path) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    ensure!(
        folder.is_dir(),
        "{} cannot be written: there is no such folder",
        path.display()
    );
    ensure!(
        !path.is_dir(),
        "{} cannot be written: it is a folder",
        path.display()
    );
    Ok(())
}

/// Text that came from outside, fit for one line of a terminal: no line breaks, no control characters.
pub fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines
        .join(" ")
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_broken_pipe_is_told_from_a_failure() {
        let closed = Output::new(Broken(io::ErrorKind::BrokenPipe))
            .text("x")
            .expect_err("nothing can be written");
        assert!(is_closed(&closed));
        let full = Output::new(Broken(io::ErrorKind::StorageFull))
            .text("x")
            .expect_err("nothing can be written");
        assert!(!is_closed(&full));
        assert!(chain(&full).starts_with("standard output cannot be written: "));
    }

    #[test]
    fn a_line_is_ended_once() -> Result<()> {
        let mut target = Vec::new();
        let mut output = Output::new(&mut target);
        output.end_line()?;
        output.text("a")?;
        output.end_line()?;
        output.end_line()?;
        output.text("")?;
        output.json(&[1, 2])?;
        output.end_line()?;
        assert_eq!(target, b"a\n[1,2]\n");
        Ok(())
    }

    #[test]
    fn a_chain_is_one_line_without_repetition() {
        let error = anyhow::anyhow!("disk\n  full")
            .context("cannot write `x`: disk full")
            .context("saving");
        assert_eq!(chain(&error), "saving: cannot write `x`: disk full");
        assert_eq!(one_line("a\n\u{1b}[2Jb"), "a \u{fffd}[2Jb");
    }
}
