//! Quality against bytes: a mark for each policy.

use super::super::report::Report;
use crate::canvas::{Alignment, BLACK, COLORS, Canvas, GREY};

const WIDTH: i32 = 900;
const LEFT: i32 = 90;
const RIGHT: i32 = WIDTH - 30;
const TOP: i32 = 50;
const BOTTOM: i32 = 450;
const LINE: i32 = 18;

/// How the vertical axis runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    /// Powers of ten, from one to another; what is smaller lies on the axis.
    Decades(i32, i32),
    /// 0 to 100 points.
    Points,
}

/// Marks in a frame.
pub struct Chart {
    title: String,
    label: &'static str,
    scale: Scale,
    /// The largest ratio of bytes.
    most: f64,
    /// Dense attention's own height, where it has one.
    dense: Option<f64>,
    /// Name, ratio of bytes, height.
    marks: Vec<(String, f64, f64)>,
}

impl Chart {
    /// Divergence where it was measured, mean accuracy otherwise; `None` where there is neither.
    pub fn of(report: &Report) -> Option<Self> {
        let heights = |height: &dyn Fn(usize) -> Option<f64>| -> Option<Vec<f64>> {
            (0..report.policies.len()).map(height).collect()
        };
        let divergences = heights(&|index| report.policies[index].kld_mean);
        let accuracies = heights(&|index| Some(report.policies[index].mean_accuracy()?.0));
        let (label, heights, scale) = match (divergences, accuracies) {
            (Some(heights), _) => {
                let scale = Scale::decades(&heights);
                ("mean KLD from dense attention, nats", heights, scale)
            }
            (None, Some(heights)) => ("mean accuracy, points", heights, Scale::Points),
            (None, None) => return None,
        };
        let policies = report.policies.iter();
        let ratios = policies.clone().map(|policy| policy.history_ratio);
        let dense = policies.clone().find_map(|policy| policy.mean_accuracy());
        let names = policies.map(|policy| policy.policy.clone());
        Some(Chart {
            title: format!("{}, {} tokens", report.model, report.context),
            label,
            scale,
            most: 1.05 * ratios.clone().fold(1.0, f64::max),
            dense: dense
                .map(|(_, dense)| dense)
                .filter(|_| scale == Scale::Points),
            marks: names
                .zip(ratios)
                .zip(heights)
                .map(|((name, ratio), height)| (name, ratio, height))
                .collect(),
        })
    }

    /// Where a mark lies.
    fn position(&self, ratio: f64, height: f64) -> (i32, i32) {
        let x = f64::from(LEFT) + ratio / self.most * f64::from(RIGHT - LEFT);
        let y = f64::from(BOTTOM) - self.scale.share(height) * f64::from(BOTTOM - TOP);
        (x.round() as i32, y.round() as i32)
    }

    /// The picture.
    pub fn draw(&self) -> Canvas {
        let legend = BOTTOM + 62;
        let mut canvas = Canvas::new(WIDTH, legend + LINE * self.marks.len() as i32 + 8);
        let title = format!("{}: {}", self.title, self.label);
        canvas.text(&title, (LEFT, 22), Alignment::Left, BLACK);
        for (height, text) in self.scale.ticks() {
            let (_, y) = self.position(0.0, height);
            canvas.line((LEFT, y), (RIGHT, y), GREY);
            canvas.text(&text, (LEFT - 8, y), Alignment::Right, BLACK);
        }
        let tenths = (self.most * 10.0).floor() as i32;
        let step = 1 + tenths / 12;
        for tenth in (0..=tenths).step_by(step as usize) {
            let (x, _) = self.position(f64::from(tenth) / 10.0, 0.0);
            canvas.line((x, TOP), (x, BOTTOM), GREY);
            let text = format!("{} %", 10 * tenth);
            canvas.text(&text, (x, BOTTOM + 14), Alignment::Center, BLACK);
        }
        canvas.line((LEFT, TOP), (LEFT, BOTTOM), BLACK);
        canvas.line((LEFT, BOTTOM), (RIGHT, BOTTOM), BLACK);
        let below = ((LEFT + RIGHT) / 2, BOTTOM + 36);
        let bytes = "bytes of the history, of a dense cache's";
        canvas.text(bytes, below, Alignment::Center, BLACK);
        if let Some(dense) = self.dense {
            let (_, y) = self.position(0.0, dense);
            for x in (LEFT..RIGHT).step_by(10) {
                canvas.line((x, y), (x + 5, y), BLACK);
            }
            canvas.text("dense", (RIGHT, y - 9), Alignment::Right, BLACK);
        }
        for (index, (name, ratio, height)) in self.marks.iter().enumerate() {
            let color = COLORS[index % COLORS.len()];
            canvas.disc(self.position(*ratio, *height), 6, color);
            let y = legend + LINE * index as i32;
            canvas.disc((LEFT + 6, y), 6, color);
            let value = self.scale.show(*height);
            let text = format!("{name}: {value} at {:.1} %", 100.0 * ratio);
            canvas.text(&text, (LEFT + 22, y), Alignment::Left, BLACK);
        }
        canvas
    }
}

impl Scale {
    /// The decades that hold all heights above zero.
    fn decades(heights: &[f64]) -> Self {
        let positive = || heights.iter().copied().filter(|height| *height > 0.0);
        let (least, most) = (
            positive().fold(f64::MAX, f64::min),
            positive().fold(0.0, f64::max),
        );
        if most == 0.0 {
            return Scale::Decades(-4, 0);
        }
        let low = least.log10().floor() as i32;
        Scale::Decades(low, (most.log10().ceil() as i32).max(low + 1))
    }

    /// How far up something lies, from 0 to 1.
    fn share(self, height: f64) -> f64 {
        let share = match self {
            Scale::Decades(low, high) => {
                (height.max(f64::MIN_POSITIVE).log10() - f64::from(low)) / f64::from(high - low)
            }
            Scale::Points => height / 100.0,
        };
        share.clamp(0.0, 1.0)
    }

    /// Heights with a line, and their names.
    fn ticks(self) -> Vec<(f64, String)> {
        match self {
            Scale::Decades(low, high) => (low..=high)
                .map(|decade| (10f64.powi(decade), format!("1e{decade}")))
                .collect(),
            Scale::Points => (0..=10)
                .map(|tenth| (f64::from(10 * tenth), (10 * tenth).to_string()))
                .collect(),
        }
    }

    fn show(self, height: f64) -> String {
        match self {
            Scale::Decades(..) => format!("{height:.5}"),
            Scale::Points => format!("{height:.1}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::super::super::report::PolicyReport;
    use super::super::super::report::tests::{report, suite};
    use super::*;
    use crate::canvas::tests::Picture;

    #[test]
    fn divergences_are_marked_on_decades() -> Result<()> {
        let policy = |ratio, kld| PolicyReport {
            policy: "p".into(),
            history_ratio: ratio,
            kld_mean: Some(kld),
            suites: vec![suite()],
            ..PolicyReport::default()
        };
        let chart = Chart::of(&report(vec![
            policy(1.0, 0.0),
            policy(0.525, 0.01),
            policy(0.0, 0.1),
        ]));
        let chart = chart.expect("there are divergences");
        assert_eq!(chart.scale, Scale::Decades(-2, -1));
        let picture = Picture::of(&chart.draw())?;
        assert_eq!(picture.width, 900);
        assert_eq!(picture.height, 512 + 3 * 18 + 8);
        // Zero and the least decade lie on the axis; half the width is half of 105 %; the largest is at the top left.
        assert_eq!(picture.at((833, 450)), COLORS[0]);
        assert_eq!(picture.at((480, 450)), COLORS[1]);
        assert_eq!(picture.at((90, 50)), COLORS[2]);
        assert_eq!(picture.count((70, 30), (800, 400), COLORS[0]), 0);
        assert_eq!(picture.at((96, 512 + 18)), COLORS[1], "the legend");
        Ok(())
    }

    #[test]
    fn accuracy_stands_in_where_nothing_was_predicted() -> Result<()> {
        let policy = PolicyReport {
            policy: "p".into(),
            history_ratio: 0.21,
            suites: vec![suite()],
            ..PolicyReport::default()
        };
        let chart = Chart::of(&report(vec![policy])).expect("there is an accuracy");
        let picture = Picture::of(&chart.draw())?;
        // 90.9 of 100 points; dense attention has 100.
        assert_eq!(picture.at((246, 86)), COLORS[0]);
        assert_eq!(
            picture.at((90 + 12, 50)),
            BLACK,
            "the line of dense attention"
        );
        assert!(Chart::of(&report(vec![PolicyReport::default()])).is_none());
        Ok(())
    }
}
