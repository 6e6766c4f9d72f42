//! Results as a Markdown table, as comma-separated values, and as JSON; each as soon as it is there.

use std::io::StdoutLock;

use anyhow::Result;
use longwave_cli::output::{Output, one_line};
use longwave_cli::report::bytes;
use serde::Serialize;
use serde_json::Value;

use crate::args::Format;
use crate::profile::OpTime;
use crate::result::{OpResult, TokenResult};

/// Something that is a row of a table and an object.
pub trait Row: Serialize {
    /// The table's columns, and whether numbers stand there.
    const COLUMNS: &'static [(&'static str, bool)];

    /// What stands in each column.
    fn cells(&self) -> Vec<String>;

    /// What stands below the table, in Markdown; rows that say the same say it once.
    fn footer(&self) -> String;

    /// Times of ops, where they were taken, and of what.
    fn profile(&self) -> Option<(String, &[OpTime])> {
        None
    }
}

/// Prints rows one after another.
pub struct Printer {
    output: Output<StdoutLock<'static>>,
    format: Format,
    rows: usize,
    footers: Vec<String>,
    profiles: Vec<String>,
    ended: bool,
}

impl Printer {
    /// Prints nothing yet.
    pub fn new(format: Format) -> Self {
        Printer {
            output: Output::stdout(),
            format,
            rows: 0,
            footers: Vec::new(),
            profiles: Vec::new(),
            ended: false,
        }
    }

    /// Prints one row.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn row<R: Row>(&mut self, row: &R) -> Result<()> {
        self.rows += 1;
        let first = self.rows == 1;
        match self.format {
            Format::Md => {
                if first {
                    self.output.line(markdown_head(R::COLUMNS))?;
                }
                let cells = row.cells().into_iter();
                let cells: Vec<String> = cells
                    .map(|cell| one_line(&cell).replace('|', "\\|"))
                    .collect();
                self.output
                    .line(format_args!("| {} |", cells.join(" | ")))?;
                let footer = row.footer();
                if !self.footers.contains(&footer) {
                    self.footers.push(footer);
                }
                if let Some((title, ops)) = row.profile() {
                    self.profiles.push(profile_table(&title, ops));
                }
            }
            Format::Csv => {
                let mut fields = Vec::new();
                flatten("", &serde_json::to_value(row)?, &mut fields);
                let line = |cells: Vec<&String>| {
                    let cells: Vec<String> = cells.into_iter().map(|cell| quoted(cell)).collect();
                    cells.join(",")
                };
                if first {
                    let names = fields.iter().map(|(name, _)| name);
                    self.output.line(line(names.collect()))?;
                }
                let values = fields.iter().map(|(_, value)| value);
                self.output.line(line(values.collect()))?;
            }
            Format::Json => {
                let begin = if first { "[\n  " } else { ",\n  " };
                self.output
                    .text(&format!("{begin}{}", serde_json::to_string(row)?))?;
            }
            Format::Jsonl => self.output.json(row)?,
        }
        Ok(())
    }

    /// Prints what stands below.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn end(mut self) -> Result<()> {
        self.ended = true;
        match self.format {
            Format::Json => {
                let end = if self.rows == 0 { "[]" } else { "\n]" };
                self.output.line(end)?;
            }
            Format::Md => {
                for text in self.profiles.iter().chain(&self.footers) {
                    self.output.line(format_args!("\n{text}"))?;
                }
            }
            Format::Csv | Format::Jsonl => {}
        }
        Ok(())
    }
}

impl Drop for Printer {
    /// Closes a list that a failure cut short, so that what was measured can be read.
    fn drop(&mut self) {
        if !self.ended && self.rows > 0 && matches!(self.format, Format::Json) {
            // The failure is what is reported.
            let _ = self.output.line("\n]");
        }
    }
}

fn markdown_head(columns: &[(&str, bool)]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let rules = columns
        .iter()
        .map(|(_, number)| if *number { "---:" } else { "---" });
    let rules: Vec<&str> = rules.collect();
    format!("| {} |\n| {} |", names.join(" | "), rules.join(" | "))
}

/// The fields of an object and of the objects in it, with names like `ceiling.flops`. Lists do not fit into a cell.
fn flatten(prefix: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let name = match prefix {
                    "" => name.clone(),
                    _ => format!("{prefix}.{name}"),
                };
                flatten(&name, value, fields);
            }
        }
        Value::Array(_) => {}
        Value::Null => fields.push((prefix.to_owned(), String::new())),
        Value::String(text) => fields.push((prefix.to_owned(), one_line(text))),
        other => fields.push((prefix.to_owned(), other.to_string())),
    }
}

/// A cell of comma-separated values.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n']) {
        return format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell.to_owned()
}

fn profile_table(title: &str, ops: &[OpTime]) -> String {
    let columns = [
        ("op", false),
        ("kernels", false),
        ("count", true),
        ("µs", true),
        ("share", true),
        ("GB/s", true),
        ("TFLOP/s", true),
    ];
    let mut table = format!("{title}, each op by itself:\n\n{}", markdown_head(&columns));
    for op in ops {
        table.push_str(&format!(
            "\n| {} | {} | {} | {:.1} | {:.1} % | {} | {} |",
            op.op,
            op.kernels.join(", "),
            op.count,
            op.ns as f64 / 1e3,
            100.0 * op.share,
            significant(op.bytes_per_second / 1e9),
            significant(op.flops_per_second / 1e12),
        ));
    }
    table
}

/// A number of weights.
fn millions(count: u64) -> String {
    match count as f64 / 1e6 {
        millions if millions >= 1000.0 => format!("{:.2} B", millions / 1000.0),
        millions => format!("{millions:.2} M"),
    }
}

/// Three digits, or as many as a whole number has.
pub fn significant(value: f64) -> String {
    match value {
        v if v <= 0.0 => "0".into(),
        v if v >= 100.0 => format!("{v:.0}"),
        v => {
            let digits = (2 - v.log10().floor() as i32).clamp(0, 9) as usize;
            format!("{v:.digits$}")
        }
    }
}

fn footer(
    (backend, device, driver): (&str, &str, &str),
    ceiling: &crate::ceiling::Ceiling,
    commit: &str,
) -> String {
    format!(
        "{backend}: {}, {}; reached at best {} GB/s ({}) and {} TFLOP/s (linear); build: {commit}",
        one_line(device),
        one_line(driver),
        significant(ceiling.bandwidth / 1e9),
        ceiling.bandwidth_by,
        significant(ceiling.flops / 1e12),
    )
}

impl Row for TokenResult {
    const COLUMNS: &'static [(&'static str, bool)] = &[
        ("model", false),
        ("size", true),
        ("params", true),
        ("backend", false),
        ("device", false),
        ("kv", false),
        ("test", true),
        ("t/s", true),
        ("bytes/token", true),
        ("of ceiling", true),
        ("KV", true),
        ("peak memory", true),
    ];

    fn cells(&self) -> Vec<String> {
        let random = if self.random { ", random" } else { "" };
        let moved = self.bytes_per_token.map(|moved| bytes(moved as u64));
        vec![
            format!("{} {}{random}", self.model_type, self.weights),
            bytes(self.model_size),
            millions(self.model_n_params),
            self.backend.to_owned(),
            self.device.clone(),
            self.kv.clone(),
            self.test.clone(),
            format!("{:.2} ± {:.2}", self.avg_ts, self.stddev_ts),
            moved.unwrap_or_default(),
            format!("{:.1} %", self.ceiling_percent),
            bytes(self.kv_bytes),
            bytes(self.peak_bytes),
        ]
    }

    fn footer(&self) -> String {
        let device = (self.backend, self.device.as_str(), self.driver.as_str());
        let mut text = footer(device, &self.ceiling, self.build_commit);
        let mut notes = Vec::new();
        notes.extend(self.overlap.map(|share| {
            let percent = 100.0 * share;
            format!(
                "{percent} % of each choice are planted in the next, instead of what is observed"
            )
        }));
        notes.extend(self.codec.clone());
        if self.resident {
            notes.push("restored rows stay from one token to the next".into());
        }
        if !notes.is_empty() {
            text += &format!("\n\n{}: {}", one_line(&self.kv), notes.join("; "));
        }
        text
    }

    fn profile(&self) -> Option<(String, &[OpTime])> {
        let step = if self.n_gen > 0 {
            "a token of"
        } else {
            "all of"
        };
        let title = format!("{step} {}, {}, {}", self.test, self.backend, self.kv);
        Some((title, self.profile.as_deref()?))
    }
}

impl Row for OpResult {
    const COLUMNS: &'static [(&'static str, bool)] = &[
        ("op", false),
        ("backend", false),
        ("kernels", false),
        ("µs", true),
        ("GB/s", true),
        ("TFLOP/s", true),
        ("of ceiling", true),
        ("bound", false),
        ("parity", true),
    ];

    fn cells(&self) -> Vec<String> {
        let parity = self.parity.map(|share| format!("{share:.3}"));
        vec![
            self.test.clone(),
            self.backend.to_owned(),
            self.kernels.join(", "),
            format!("{:.1} ± {:.1}", self.avg_ns / 1e3, self.stddev_ns / 1e3),
            significant(self.bytes_per_second / 1e9),
            significant(self.flops_per_second / 1e12),
            format!("{:.1} %", self.ceiling_percent),
            self.bound.to_owned(),
            parity.unwrap_or_else(|| "reference".into()),
        ]
    }

    fn footer(&self) -> String {
        let device = (self.backend, self.device.as_str(), self.driver.as_str());
        footer(device, &self.ceiling, self.build_commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0.0, 0.001234, 0.1234, 9.876, 12.34, 123.4, 12345.0];
        let shown = numbers.map(significant);
        assert_eq!(
            shown,
            ["0", "0.00123", "0.123", "9.88", "12.3", "123", "12345"]
        );
    }

    #[test]
    fn objects_within_objects_are_fields_too() {
        let mut fields = Vec::new();
        let value = serde_json::json!({ "a": 1.5, "b": [1], "c": { "d": null, "e": "x" } });
        flatten("", &value, &mut fields);
        let expected = [("a", "1.5"), ("c.d", ""), ("c.e", "x")];
        assert_eq!(
            fields,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn cells_with_commas_are_quoted() {
        assert_eq!(quoted("a"), "a");
        assert_eq!(quoted("keep=1,sink=2"), "\"keep=1,sink=2\"");
        assert_eq!(quoted("say \"x\""), "\"say \"\"x\"\"\"");
    }
}
