//! What an evaluation found, as JSON and as tables.

use longwave_runtime::eval::ComparisonSummary;
use serde::Serialize;

use super::Suite;
use crate::report::count;

/// The outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The model, as it was asked for.
    pub model: String,
    /// The backend's name.
    pub backend: &'static str,
    /// The device's name.
    pub device: String,
    /// The names of the texts; none where haystacks are made up.
    pub text: Vec<String>,
    /// Tokens before those that are predicted; tokens of a context with its question.
    pub context: u32,
    /// Tokens of a window that are predicted.
    pub predict: u32,
    /// Windows, and contexts of each suite and haystack.
    pub samples: u32,
    /// Questions about one context.
    pub questions: u32,
    /// What needles hold.
    pub needle: &'static str,
    /// What windows and questions follow from.
    pub seed: u64,
    /// One for each `--kv`, in order.
    pub policies: Vec<PolicyReport>,
}

/// One policy. Figures of suites that were not asked for are left out, but that `kld` gives the perplexities too.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PolicyReport {
    /// The policy, as `--kv` names it.
    pub policy: String,
    /// Bytes that the sequence holds over those of the pages of a dense cache: after the last window, or where no text was predicted the mean
    /// over the contexts of the first of `suites`.
    pub kv_ratio: f64,
    /// The same for the history alone: everything but the first 8 and the last 128 tokens.
    pub history_ratio: f64,
    /// Tokens that were predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Mean Kullback-Leibler divergence from dense attention, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_mean: Option<f64>,
    /// Its median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_median: Option<f64>,
    /// What 99 % of tokens do not exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_p99: Option<f64>,
    /// The largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_max: Option<f64>,
    /// Share of tokens at which the likeliest one is the same, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Perplexity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppl: Option<f64>,
    /// That of dense attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppl_dense: Option<f64>,
    /// Standard error of `ln(ppl / ppl_dense)`, paired by token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppl_log_ratio_error: Option<f64>,
    /// Question suites: one entry for each suite, haystack and query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub suites: Vec<SuiteReport>,
}

/// Questions of one suite, haystack and query. Accuracies, their difference and its interval are in points: 100 where every answer is right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SuiteReport {
    /// `niah`, `multikey`, `kvretrieval` or `tracking`.
    pub suite: &'static str,
    /// `book`, `repeat` or `uuid`, where the suite has a haystack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub haystack: Option<&'static str>,
    /// Whether the question is `known` or `unknown` when the context is taken in.
    pub query: &'static str,
    /// Contexts.
    pub contexts: usize,
    /// Questions about all of them.
    pub questions: usize,
    /// The policy's accuracy.
    pub accuracy: f64,
    /// That of dense attention, on the same questions.
    pub dense: f64,
    /// The first less the second.
    pub difference: f64,
    /// Where 95 % of paired bootstrap samples of contexts have the difference (of questions, where there is one context).
    pub interval: [f64; 2],
    /// Questions that dense attention answers in full and the policy does not.
    pub lost: usize,
    /// Questions that the policy answers in full and dense attention does not.
    pub gained: usize,
    /// McNemar's exact test of the two.
    pub p_value: f64,
    /// Bytes of the policy's cache over those of a dense one, before the first token of an answer: the mean.
    pub kv_ratio: f64,
    /// The same for the history alone.
    pub history_ratio: f64,
    /// By depth, shallowest first; none for `tracking`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depths: Vec<DepthReport>,
    /// A question that was answered differently, or any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub example: Option<Example>,
}

/// Accuracy at one depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DepthReport {
    /// Where in the context what is asked for stands: 0 at its beginning, 1 at its end.
    pub depth: f64,
    /// Questions.
    pub questions: usize,
    /// The policy's accuracy, in points.
    pub accuracy: f64,
    /// That of dense attention.
    pub dense: f64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Example {
    /// What had to be named.
    pub expected: Vec<String>,
    /// The first line of the answer under dense attention, as far as it was generated.
    pub dense: String,
    /// The same under the policy.
    pub answer: String,
}

impl PolicyReport {
    /// The figures that the suites ask for; the rest is for the caller to fill in.
    pub fn of(summary: ComparisonSummary, suites: &[Suite]) -> Self {
        let kld = |value: f64| suites.contains(&Suite::Kld).then_some(value);
        let ppl = |value: f64| suites.contains(&Suite::Ppl).then_some(value);
        let either = |value: f64| kld(value).or(ppl(value));
        PolicyReport {
            tokens: Some(summary.tokens),
            kld_mean: kld(summary.kld_mean),
            kld_median: kld(summary.kld_median),
            kld_p99: kld(summary.kld_p99),
            kld_max: kld(summary.kld_max),
            top1: kld(summary.top1),
            ppl: either(summary.ppl),
            ppl_dense: either(summary.ppl_dense),
            ppl_log_ratio_error: either(summary.loss_difference_error),
            ..PolicyReport::default()
        }
    }

    /// Means over all question suites, in points: of the policy, and of dense attention. `None` where nothing was asked.
    pub fn mean_accuracy(&self) -> Option<(f64, f64)> {
        let mean = |figure: fn(&SuiteReport) -> f64| {
            self.suites.iter().map(figure).sum::<f64>() / self.suites.len() as f64
        };
        (!self.suites.is_empty()).then(|| (mean(|suite| suite.accuracy), mean(|suite| suite.dense)))
    }
}

impl SuiteReport {
    /// What tells it from the other entries.
    pub fn title(&self) -> String {
        let words = [Some(self.suite), self.haystack, Some(self.query)];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

impl Report {
    /// All tables.
    pub fn tables(&self) -> String {
        let mut text = String::new();
        if self.policies.iter().any(|policy| policy.tokens.is_some()) {
            text += &self.predictions();
        }
        if self.policies.iter().any(|policy| !policy.suites.is_empty()) {
            let gap = if text.is_empty() { "" } else { "\n" };
            text += &format!("{gap}{}\n{}", self.answers(), self.depths());
        }
        text
    }

    fn predictions(&self) -> String {
        let header = [
            "policy", "kv", "history", "KLD", "median", "99 %", "max", "top-1", "ppl", "dense",
            "change",
        ];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for policy in &self.policies {
            let small = |value: Option<f64>| or_dash(value, |value| format!("{value:.5}"));
            let plain = |value: Option<f64>| or_dash(value, |value| format!("{value:.4}"));
            let change = match (policy.ppl, policy.ppl_dense, policy.ppl_log_ratio_error) {
                (Some(ppl), Some(dense), Some(error)) => {
                    let change = 100.0 * (ppl / dense - 1.0);
                    format!("{change:+.2} ± {:.2} %", 100.0 * error)
                }
                _ => "-".into(),
            };
            rows.push(vec![
                policy.policy.clone(),
                share(policy.kv_ratio),
                share(policy.history_ratio),
                small(policy.kld_mean),
                small(policy.kld_median),
                small(policy.kld_p99),
                small(policy.kld_max),
                or_dash(policy.top1, share),
                plain(policy.ppl),
                plain(policy.ppl_dense),
                change,
            ]);
        }
        format!(
            "{}, {} tokens predicted after {} in {} of {}\n{}",
            self.model,
            self.predict,
            self.context,
            count(self.samples as usize, "window"),
            self.text.join(", "),
            aligned(&rows, 1)
        )
    }

    fn answers(&self) -> String {
        let header = [
            "policy",
            "suite",
            "kv",
            "history",
            "questions",
            "accuracy",
            "dense",
            "difference",
            "95 %",
            "lost",
            "gained",
            "p",
        ];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for (policy, suite) in self.entries() {
            let [low, high] = suite.interval;
            rows.push(vec![
                policy.to_owned(),
                suite.title(),
                share(suite.kv_ratio),
                share(suite.history_ratio),
                suite.questions.to_string(),
                format!("{:.1}", suite.accuracy),
                format!("{:.1}", suite.dense),
                format!("{:+.1}", suite.difference),
                format!("{low:+.1} to {high:+.1}"),
                suite.lost.to_string(),
                suite.gained.to_string(),
                format!("{:.3}", suite.p_value),
            ]);
        }
        format!(
            "{}, questions about {} of {} tokens; accuracy in points\n{}",
            self.model,
            count(self.samples as usize, "context"),
            self.context,
            aligned(&rows, 2)
        )
    }

    /// Accuracy by depth; nothing where no question has one.
    fn depths(&self) -> String {
        let mut rows = vec![["policy", "suite"].map(str::to_owned).to_vec()];
        rows[0].extend((0..=10).map(|tenth| format!("{:.1}", f64::from(tenth) / 10.0)));
        for (policy, suite) in self.entries().filter(|(_, suite)| !suite.depths.is_empty()) {
            let mut row = vec![policy.to_owned(), suite.title()];
            row.extend(
                by_tenth(suite, |depth| depth.accuracy)
                    .map(|accuracy| or_dash(accuracy, |accuracy| format!("{accuracy:.0}"))),
            );
            rows.push(row);
        }
        match rows.len() {
            1 => String::new(),
            _ => format!("accuracy by depth\n{}", aligned(&rows, 2)),
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &SuiteReport)> {
        self.policies.iter().flat_map(|policy| {
            let suites = policy.suites.iter();
            suites.map(|suite| (policy.policy.as_str(), suite))
        })
    }
}

/// A figure at each of the eleven depths.
pub fn by_tenth(suite: &SuiteReport, figure: fn(&DepthReport) -> f64) -> [Option<f64>; 11] {
    let mut tenths = [None; 11];
    for depth in &suite.depths {
        if let Some(tenth) = tenths.get_mut((10.0 * depth.depth).round() as usize) {
            *tenth = Some(figure(depth));
        }
    }
    tenths
}

fn share(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

fn or_dash(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or("-".into(), show)
}

/// Rows below each other; the first `left` columns begin in line, the others end in line.
fn aligned(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column < left {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn policy(suite: &[Suite]) -> PolicyReport {
        let summary = ComparisonSummary {
            tokens: 256,
            kld_mean: 0.001,
            kld_median: 0.0005,
            kld_p99: 0.01,
            kld_max: 0.02,
            top1: 0.99,
            ppl: 10.1,
            ppl_dense: 10.0,
            loss_difference: 0.00995,
            loss_difference_error: 0.001,
        };
        PolicyReport {
            policy: "p".into(),
            kv_ratio: 1.01,
            history_ratio: 0.29,
            ..PolicyReport::of(summary, suite)
        }
    }

    /// An entry in which everything is right but at the greatest depth.
    pub fn suite() -> SuiteReport {
        let depth = |tenth: u32| DepthReport {
            depth: f64::from(tenth) / 10.0,
            questions: 2,
            accuracy: if tenth == 10 { 0.0 } else { 100.0 },
            dense: 100.0,
        };
        SuiteReport {
            suite: "niah",
            haystack: Some("book"),
            query: "unknown",
            contexts: 2,
            questions: 22,
            accuracy: 90.9,
            dense: 100.0,
            difference: -9.1,
            interval: [-9.1, -9.1],
            lost: 2,
            gained: 0,
            p_value: 0.5,
            kv_ratio: 0.3,
            history_ratio: 0.29,
            depths: (0..=10).map(depth).collect(),
            example: None,
        }
    }

    pub fn report(policies: Vec<PolicyReport>) -> Report {
        Report {
            model: "m".into(),
            backend: "cpu",
            device: "d".into(),
            text: vec!["t.txt".into()],
            context: 100,
            predict: 256,
            samples: 1,
            questions: 11,
            needle: "number",
            seed: 0,
            policies,
        }
    }

    #[test]
    fn tables_show_what_was_measured() {
        let report = report(vec![policy(&[Suite::Kld]), policy(&[Suite::Ppl])]);
        let json = serde_json::to_value(&report).expect("it is plain data");
        let first = &json["policies"][0];
        for key in [
            "policy",
            "kv_ratio",
            "history_ratio",
            "kld_mean",
            "kld_p99",
            "top1",
            "ppl",
            "ppl_dense",
        ] {
            assert!(!first[key].is_null(), "{key}");
        }
        assert!(json["policies"][1]["kld_mean"].is_null() && first["suites"].is_null());
        let table = report.tables();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(
            lines[2].contains("29.0 %") && lines[2].contains("0.00100"),
            "{table}"
        );
        assert!(
            lines[3].contains("+1.00 ± 0.10 %") && lines[3].contains(" - "),
            "{table}"
        );
    }

    #[test]
    fn answers_have_tables_of_their_own() {
        let policy = PolicyReport {
            policy: "p".into(),
            suites: vec![suite()],
            ..PolicyReport::default()
        };
        let table = report(vec![policy]).tables();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].contains("1 context of 100 tokens"), "{table}");
        assert!(
            lines[2].contains("niah book unknown") && lines[2].contains("-9.1 to -9.1"),
            "{table}"
        );
        assert_eq!(lines[4], "accuracy by depth");
        assert!(lines[6].ends_with("100    0"), "{table}");
        assert_eq!(lines.len(), 7, "{table}");
    }
}
