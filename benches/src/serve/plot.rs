//! The shares of requests by their times.

use longwave_cli::canvas::{Alignment, BLACK, COLORS, Canvas, GREY};

use super::figures::{Figures, Times};
use crate::print::significant;

const WIDTH: i32 = 900;
const LEFT: i32 = 90;
const RIGHT: i32 = WIDTH - 40;
const TOP: i32 = 50;
const BOTTOM: i32 = 450;
const LINE: i32 = 18;

/// For each time the share of requests that took no longer, over milliseconds in powers of ten.
pub fn draw(figures: &Figures, times: &Times) -> Canvas {
    let lines = [
        ("to the first token", &times.ttft),
        ("per token after it", &times.tpot),
        ("between parts of an answer", &times.itl),
        ("to the end", &times.e2e),
    ];
    let all = || lines.iter().flat_map(|(_, times)| times.iter().copied());
    let positive = || all().filter(|time| *time > 0.0);
    let low = positive()
        .fold(f64::MAX, f64::min)
        .max(1e-3)
        .log10()
        .floor() as i32;
    let high = positive().fold(1e-3, f64::max).log10().ceil() as i32;
    let (low, high) = (low.min(high), high.max(low.min(high) + 1));
    let x = |time: f64| {
        let share = (time.max(1e-3).log10() - f64::from(low)) / f64::from(high - low);
        LEFT + (share.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)).round() as i32
    };
    let y = |share: f64| BOTTOM - (share * f64::from(BOTTOM - TOP)).round() as i32;
    let legend = BOTTOM + 62;
    let mut canvas = Canvas::new(WIDTH, legend + LINE * lines.len() as i32 + 8);
    let title = format!(
        "{}: {} of {} requests answered, shares by time",
        figures.model, figures.completed, figures.requests
    );
    canvas.text(&title, (LEFT, 22), Alignment::Left, BLACK);
    for percent in [0, 25, 50, 75, 99, 100] {
        let at = y(f64::from(percent) / 100.0);
        canvas.line((LEFT, at), (RIGHT, at), GREY);
        if percent != 99 {
            let text = format!("{percent} %");
            canvas.text(&text, (LEFT - 8, at), Alignment::Right, BLACK);
        }
    }
    for power in low..=high {
        let time = 10f64.powi(power);
        canvas.line((x(time), TOP), (x(time), BOTTOM), GREY);
        let text = significant(time);
        canvas.text(&text, (x(time), BOTTOM + 14), Alignment::Center, BLACK);
    }
    let middle = ((LEFT + RIGHT) / 2, BOTTOM + 36);
    canvas.text("milliseconds", middle, Alignment::Center, BLACK);
    for (index, (name, times)) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let mut sorted = times.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let share = |at: usize| (at + 1) as f64 / sorted.len() as f64;
        for (at, pair) in sorted.windows(2).enumerate() {
            let from = (x(pair[0]), y(share(at)));
            canvas.line(from, (x(pair[1]), y(share(at + 1))), color);
        }
        let at = legend + LINE * index as i32;
        canvas.disc((LEFT + 6, at), 4, color);
        canvas.text(name, (LEFT + 22, at), Alignment::Left, BLACK);
    }
    canvas
}
