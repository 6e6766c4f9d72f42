//! What a run of `bench serve` found, in numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::args::{Goal, ServeArguments, Time};
use super::client::{Answer, End};

/// Milliseconds over all requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub median: f64,
    /// What 99 of a hundred do not exceed.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of some times; zeros where there are none.
    pub fn of(times: &[f64]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let Some(&max) = sorted.last() else {
            return Spread::default();
        };
        // The least value that so many do not exceed.
        let rank = |share: f64| {
            let at = (share * sorted.len() as f64).ceil() as usize;
            sorted[at.clamp(1, sorted.len()) - 1]
        };
        Spread {
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            median: rank(0.5),
            p99: rank(0.99),
            max,
        }
    }
}

/// The times of all answers, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// To the first token.
    pub ttft: Vec<f64>,
    /// Per token after the first.
    pub tpot: Vec<f64>,
    /// Between two parts.
    pub itl: Vec<f64>,
    /// To the end.
    pub e2e: Vec<f64>,
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The server.
    pub url: String,
    /// The model.
    pub model: String,
    /// What was sent.
    pub requests: usize,
    /// Requests a second, where they were sent at random times.
    pub rate: Option<f64>,
    /// Requests under way at most.
    pub concurrency: Option<u32>,
    /// Whole answers.
    pub completed: usize,
    /// Requests that the server was too busy for.
    pub refused: usize,
    /// Requests that failed.
    pub failed: usize,
    /// Why, and how often.
    pub errors: BTreeMap<String, usize>,
    /// From the first request to the last answer, in seconds.
    pub duration_s: f64,
    /// Tokens of prompts that were answered.
    pub prompt_tokens: u64,
    /// Those of them that were in the server's cache.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// Answers a second.
    pub request_throughput: f64,
    /// Tokens of answers a second.
    pub output_throughput: f64,
    /// Tokens of prompts and answers a second.
    pub total_throughput: f64,
    /// To the first token.
    pub ttft_ms: Spread,
    /// Per token after the first.
    pub tpot_ms: Spread,
    /// Between two parts of an answer.
    pub itl_ms: Spread,
    /// To the end.
    pub e2e_ms: Spread,
    /// Good answers a second, where it was said what is good.
    pub goodput: Option<f64>,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// To the first token, per token after it, and to the end.
fn times(answer: &Answer) -> Option<[f64; 3]> {
    let first = ms(*answer.parts.first()?);
    let last = ms(*answer.parts.last()?);
    let more = answer.tokens[2].max(answer.parts.len() as u64).max(2) - 1;
    Some([first, (last - first) / more as f64, ms(answer.whole)])
}

fn is_good(answer: &Answer, goals: &[Goal]) -> bool {
    times(answer).is_some_and(|[ttft, tpot, e2e]| {
        goals.iter().all(|goal| {
            let found = match goal.time {
                Time::Ttft => ttft,
                Time::Tpot => tpot,
                Time::E2e => e2e,
            };
            found <= goal.most
        })
    })
}

impl Figures {
    /// Of all answers, and their times.
    pub fn of(arguments: &ServeArguments, model: &str, answers: &[Answer]) -> (Self, Times) {
        let count = |end: &End| answers.iter().filter(|answer| answer.end == *end).count();
        let whole: Vec<&Answer> = answers
            .iter()
            .filter(|answer| answer.end == End::Answered)
            .collect();
        let mut errors = BTreeMap::new();
        for answer in answers {
            if let End::Failed(why) = &answer.end {
                *errors.entry(why.clone()).or_default() += 1;
            }
        }
        let mut all = Times::default();
        for answer in &whole {
            if let Some([ttft, tpot, e2e]) = times(answer) {
                all.ttft.push(ttft);
                all.e2e.push(e2e);
                if answer.tokens[2] > 1 {
                    all.tpot.push(tpot);
                }
            }
            let gaps = answer.parts.windows(2).map(|pair| ms(pair[1] - pair[0]));
            all.itl.extend(gaps);
        }
        let ended = answers.iter().map(|answer| answer.sent + answer.whole);
        let duration = ended.max().unwrap_or_default().as_secs_f64();
        let sum = |index: usize| whole.iter().map(|answer| answer.tokens[index]).sum::<u64>();
        let per_second = |count: f64| {
            if duration > 0.0 {
                count / duration
            } else {
                0.0
            }
        };
        let goals = &arguments.goodput;
        let good = whole.iter().filter(|answer| is_good(answer, goals)).count();
        let figures = Figures {
            url: arguments.url.clone(),
            model: model.to_owned(),
            requests: answers.len(),
            rate: arguments.rate,
            concurrency: arguments.concurrency,
            completed: whole.len(),
            refused: count(&End::Refused),
            failed: errors.values().sum(),
            errors,
            duration_s: duration,
            prompt_tokens: sum(0),
            cached_tokens: sum(1),
            completion_tokens: sum(2),
            request_throughput: per_second(whole.len() as f64),
            output_throughput: per_second(sum(2) as f64),
            total_throughput: per_second((sum(0) + sum(2)) as f64),
            ttft_ms: Spread::of(&all.ttft),
            tpot_ms: Spread::of(&all.tpot),
            itl_ms: Spread::of(&all.itl),
            e2e_ms: Spread::of(&all.e2e),
            goodput: (!goals.is_empty()).then(|| per_second(good as f64)),
        };
        (figures, all)
    }

    /// As Markdown.
    pub fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "{} requests to {} ({}): {} answered, {} refused, {} failed in {:.1} s",
                self.requests,
                self.url,
                self.model,
                self.completed,
                self.refused,
                self.failed,
                self.duration_s
            ),
            format!(
                "{} prompt tokens, {} of them cached; {} tokens of answers: {:.2} answers, {:.1} tokens, {:.1} tokens with prompts a second",
                self.prompt_tokens,
                self.cached_tokens,
                self.completion_tokens,
                self.request_throughput,
                self.output_throughput,
                self.total_throughput
            ),
        ];
        if let Some(goodput) = self.goodput {
            lines.push(format!("{goodput:.2} good answers a second"));
        }
        lines.push(String::new());
        lines.push("| ms | mean | median | 99 % | max |".into());
        lines.push("| --- | ---: | ---: | ---: | ---: |".into());
        let rows = [
            ("to the first token (TTFT)", self.ttft_ms),
            ("per token after it (TPOT)", self.tpot_ms),
            ("between parts (ITL)", self.itl_ms),
            ("to the end (E2E)", self.e2e_ms),
        ];
        lines.extend(rows.map(|(name, spread)| {
            format!(
                "| {name} | {:.1} | {:.1} | {:.1} | {:.1} |",
                spread.mean, spread.median, spread.p99, spread.max
            )
        }));
        lines.extend(
            self.errors
                .iter()
                .map(|(why, count)| format!("\n{count} x {why}")),
        );
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_of_what_was_measured() {
        let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let spread = Spread::of(&times);
        assert_eq!(
            (spread.median, spread.p99, spread.max),
            (100.0, 198.0, 200.0)
        );
        assert_eq!(Spread::of(&[3.0]).p99, 3.0);
        assert_eq!(Spread::of(&[]), Spread::default());
    }

    #[test]
    fn good_answers_keep_all_goals() {
        let at = |ms: u64| Duration::from_millis(ms);
        let answer = Answer {
            end: End::Answered,
            sent: at(0),
            parts: vec![at(100), at(120), at(160)],
            whole: at(170),
            tokens: [5, 0, 3],
        };
        assert_eq!(times(&answer), Some([100.0, 30.0, 170.0]));
        let goal = |time, most| Goal { time, most };
        assert!(is_good(
            &answer,
            &[goal(Time::Ttft, 100.0), goal(Time::Tpot, 31.0)]
        ));
        assert!(!is_good(
            &answer,
            &[goal(Time::Ttft, 100.0), goal(Time::E2e, 160.0)]
        ));
    }
}
