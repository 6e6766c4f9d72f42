//! `--plot`: tokens per second against context, a line for each backend and policy.

use std::path::Path;

use anyhow::{Context, Result};
use longwave_cli::canvas::{Alignment, BLACK, COLORS, Canvas, GREY};

use crate::print::significant;
use crate::result::TokenResult;

const WIDTH: i32 = 900;
const LEFT: i32 = 90;
const RIGHT: i32 = WIDTH - 40;
const TOP: i32 = 50;
const BOTTOM: i32 = 450;
const LINE: i32 = 18;

/// Rates that differ by more than this are drawn on decades.
const FAR_APART: f64 = 30.0;

/// Draws `prefill.png` by the length of prompts, and `decode.png` by what is in the cache, where either was measured.
///
/// # Errors
/// A file cannot be written.
pub fn draw(results: &[TokenResult], folder: &Path) -> Result<()> {
    let kinds = [
        ("prefill.png", "prefill", "tokens of the prompt", false),
        ("decode.png", "decode", "tokens in the cache", true),
    ];
    for (name, what, below, generates) in kinds {
        let Some(chart) = Chart::of(results, what, below, generates) else {
            continue;
        };
        let path = folder.join(name);
        let saved = chart.draw().save(&path);
        saved.with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

/// Context, tokens per second, and their deviation.
type Point = (u32, f64, f64);

/// Lines in a frame.
struct Chart {
    title: String,
    below: &'static str,
    lines: Vec<(String, Vec<Point>)>,
    /// All contexts, in order.
    contexts: Vec<u32>,
    scale: Scale,
}

/// How the vertical axis runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    /// From zero in steps of this size, so many of them.
    Even(f64, i32),
    /// Powers of ten, from one to another.
    Decades(i32, i32),
}

impl Chart {
    /// `None` where there is nothing of the kind.
    fn of(
        results: &[TokenResult],
        what: &str,
        below: &'static str,
        generates: bool,
    ) -> Option<Self> {
        let kind = results
            .iter()
            .filter(|result| (result.n_gen > 0) == generates);
        let mut lines: Vec<(String, Vec<Point>)> = Vec::new();
        for result in kind.clone() {
            // Lengths of prompts make up the axis; of generated tokens, and of prompts at a depth, each number has its line.
            let (context, apart) = match generates {
                true => (result.n_depth, format!("tg{}", result.n_gen)),
                false if result.n_depth == 0 => (result.n_prompt, "pp".into()),
                false => (result.n_prompt, format!("pp @ d{}", result.n_depth)),
            };
            let name = format!("{} {}, {apart}", result.backend, result.kv);
            let point = (context, result.avg_ts, result.stddev_ts);
            match lines.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push(point),
                None => lines.push((name, vec![point])),
            }
        }
        let first = kind.clone().next()?;
        let mut contexts: Vec<u32> = Vec::new();
        for (_, points) in &mut lines {
            points.sort_by_key(|point| point.0);
            contexts.extend(points.iter().map(|point| point.0));
        }
        contexts.sort_unstable();
        contexts.dedup();
        let rates = lines
            .iter()
            .flat_map(|(_, points)| points)
            .map(|point| point.1);
        Some(Chart {
            title: format!(
                "{} {}: {what}, tokens per second",
                first.model_type, first.weights
            ),
            below,
            scale: Scale::of(rates),
            lines,
            contexts,
        })
    }

    /// How far right a context lies: doublings are equally wide, and nothing is one doubling before the first.
    fn x(&self, context: u32) -> i32 {
        let least = self.contexts.iter().copied().find(|context| *context > 0);
        let least = f64::from(least.unwrap_or(1)).log2();
        let doublings = |context: u32| match context {
            0 => least - 1.0,
            some => f64::from(some).log2(),
        };
        let ends = (self.contexts.first(), self.contexts.last());
        let (Some(&first), Some(&last)) = ends else {
            return LEFT;
        };
        let width = doublings(last) - doublings(first);
        let share = match width > 0.0 {
            true => (doublings(context) - doublings(first)) / width,
            false => 0.5,
        };
        let (from, to) = (LEFT + 30, RIGHT - 30);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn y(&self, rate: f64) -> i32 {
        BOTTOM - (self.scale.share(rate) * f64::from(BOTTOM - TOP)).round() as i32
    }

    fn draw(&self) -> Canvas {
        let legend = BOTTOM + 62;
        let mut canvas = Canvas::new(WIDTH, legend + LINE * self.lines.len() as i32 + 8);
        canvas.text(&self.title, (LEFT, 22), Alignment::Left, BLACK);
        for rate in self.scale.ticks() {
            let y = self.y(rate);
            canvas.line((LEFT, y), (RIGHT, y), GREY);
            canvas.text(&significant(rate), (LEFT - 8, y), Alignment::Right, BLACK);
        }
        for &context in &self.contexts {
            let x = self.x(context);
            canvas.line((x, TOP), (x, BOTTOM), GREY);
            let text = context.to_string();
            canvas.text(&text, (x, BOTTOM + 14), Alignment::Center, BLACK);
        }
        canvas.line((LEFT, TOP), (LEFT, BOTTOM), BLACK);
        canvas.line((LEFT, BOTTOM), (RIGHT, BOTTOM), BLACK);
        let middle = ((LEFT + RIGHT) / 2, BOTTOM + 36);
        canvas.text(self.below, middle, Alignment::Center, BLACK);
        for (index, (name, points)) in self.lines.iter().enumerate() {
            let color = COLORS[index % COLORS.len()];
            for pair in points.windows(2) {
                let place = |point: Point| (self.x(point.0), self.y(point.1));
                canvas.line(place(pair[0]), place(pair[1]), color);
            }
            for &(context, rate, deviation) in points {
                let x = self.x(context);
                let ends = [rate - deviation, rate + deviation].map(|rate| self.y(rate));
                canvas.line((x, ends[0]), (x, ends[1]), color);
                canvas.disc((x, self.y(rate)), 4, color);
            }
            let y = legend + LINE * index as i32;
            canvas.disc((LEFT + 6, y), 4, color);
            canvas.text(name, (LEFT + 22, y), Alignment::Left, BLACK);
        }
        canvas
    }
}

impl Scale {
    /// What shows all rates.
    fn of(rates: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::MAX, f64::MIN_POSITIVE);
        for rate in rates.filter(|rate| *rate > 0.0) {
            (least, most) = (least.min(rate), most.max(rate));
        }
        if most / least > FAR_APART {
            let low = least.log10().floor() as i32;
            return Scale::Decades(low, (most.log10().ceil() as i32).max(low + 1));
        }
        // Four to ten steps of 1, 2 or 5 times a power of ten.
        let power = 10f64.powf((most / 10.0).log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
        let step = steps.into_iter().find(|step| most / step <= 10.0);
        let step = step.unwrap_or(most);
        Scale::Even(step, (most / step).ceil() as i32)
    }

    /// How far up a rate lies, from 0 to 1.
    fn share(self, rate: f64) -> f64 {
        let share = match self {
            Scale::Even(step, count) => rate / (step * f64::from(count)),
            Scale::Decades(low, high) => {
                (rate.max(f64::MIN_POSITIVE).log10() - f64::from(low)) / f64::from(high - low)
            }
        };
        share.clamp(0.0, 1.0)
    }

    /// Rates with a line.
    fn ticks(self) -> Vec<f64> {
        match self {
            Scale::Even(step, count) => (0..=count).map(|at| step * f64::from(at)).collect(),
            Scale::Decades(low, high) => (low..=high).map(|at| 10f64.powi(at)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_suits_what_is_shown() {
        let of = |rates: &[f64]| Scale::of(rates.iter().copied());
        assert_eq!(of(&[73.0, 20.0]), Scale::Even(10.0, 8));
        assert_eq!(of(&[110.0, 130.0]), Scale::Even(20.0, 7));
        assert_eq!(of(&[3.0, 4500.0]), Scale::Decades(0, 4));
        assert_eq!(of(&[]).share(1.0), 1.0);
        assert_eq!(Scale::Even(10.0, 8).share(40.0), 0.5);
        assert_eq!(Scale::Decades(0, 4).share(100.0), 0.5);
        assert_eq!(Scale::Decades(0, 4).ticks().len(), 5);
    }

    #[test]
    fn doublings_are_equally_wide() {
        let chart = Chart {
            title: String::new(),
            below: "",
            lines: Vec::new(),
            contexts: vec![0, 100, 200, 400],
            scale: Scale::Even(1.0, 1),
        };
        let places: Vec<i32> = chart.contexts.iter().map(|&at| chart.x(at)).collect();
        assert_eq!(places[0], LEFT + 30);
        assert_eq!(places[3], RIGHT - 30);
        assert!((places[2] - places[1] - (places[1] - places[0])).abs() <= 1);
        let single = Chart {
            contexts: vec![0],
            ..chart
        };
        assert_eq!(single.x(0), (LEFT + RIGHT) / 2);
    }
}
