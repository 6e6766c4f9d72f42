//! Accuracy by depth: a row for each suite, haystack and query.

use embedded_graphics::pixelcolor::{Rgb888, RgbColor};

use crate::canvas::{Alignment, BLACK, Canvas, GREY, LETTER};

const CELL: (i32, i32) = (52, 30);
const TOP: i32 = 66;
const MARGIN: i32 = 12;
/// From no points to all of them.
const RAMP: [Rgb888; 3] = [
    Rgb888::new(215, 48, 39),
    Rgb888::new(254, 224, 139),
    Rgb888::new(26, 152, 80),
];

/// Rows of eleven cells.
pub struct HeatMap {
    title: String,
    rows: Vec<(String, [Option<f64>; 11])>,
}

impl HeatMap {
    /// An empty one.
    pub fn new(title: String) -> Self {
        HeatMap {
            title,
            rows: Vec::new(),
        }
    }

    /// Adds a row: its name, and points by depth.
    pub fn add(&mut self, name: String, points: [Option<f64>; 11]) {
        self.rows.push((name, points));
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Where the cells begin.
    fn left(&self) -> i32 {
        let names = self.rows.iter().map(|(name, _)| name.chars().count());
        2 * MARGIN + LETTER * names.max().unwrap_or(0) as i32
    }

    /// The picture.
    pub fn draw(&self) -> Canvas {
        let left = self.left();
        let width = (left + 11 * CELL.0).max(MARGIN + LETTER * self.title.chars().count() as i32);
        let height = TOP + CELL.1 * self.rows.len() as i32;
        let mut canvas = Canvas::new(width + MARGIN, height + MARGIN);
        canvas.text(&self.title, (MARGIN, 18), Alignment::Left, BLACK);
        let heading = "points by depth";
        canvas.text(heading, (MARGIN, TOP - 14), Alignment::Left, BLACK);
        for depth in 0..=10 {
            let text = format!("{:.1}", f64::from(depth) / 10.0);
            let x = left + CELL.0 * depth + CELL.0 / 2;
            canvas.text(&text, (x, TOP - 14), Alignment::Center, BLACK);
        }
        for (row, (name, points)) in self.rows.iter().enumerate() {
            let y = TOP + CELL.1 * row as i32;
            canvas.text(name, (MARGIN, y + CELL.1 / 2), Alignment::Left, BLACK);
            for (column, points) in points.iter().enumerate() {
                let x = left + CELL.0 * column as i32;
                let color = points.map_or(GREY, color);
                canvas.fill((x, y), (CELL.0 - 1, CELL.1 - 1), color);
                let text = points.map_or("-".into(), |points| format!("{points:.0}"));
                let center = (x + CELL.0 / 2, y + CELL.1 / 2);
                canvas.text(&text, center, Alignment::Center, BLACK);
            }
        }
        canvas
    }
}

/// The colour of a number of points.
fn color(points: f64) -> Rgb888 {
    let place = (points / 50.0).clamp(0.0, 2.0);
    let (from, to) = match place < 1.0 {
        true => (RAMP[0], RAMP[1]),
        false => (RAMP[1], RAMP[2]),
    };
    let part = if place < 1.0 { place } else { place - 1.0 };
    let mix = |from: u8, to: u8| {
        (f64::from(from) + part * (f64::from(to) - f64::from(from))).round() as u8
    };
    Rgb888::new(
        mix(from.r(), to.r()),
        mix(from.g(), to.g()),
        mix(from.b(), to.b()),
    )
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::*;
    use crate::canvas::tests::Picture;

    #[test]
    fn cells_have_the_colours_of_their_points() -> Result<()> {
        let mut map = HeatMap::new("title".into());
        assert!(map.is_empty());
        let mut points = [Some(100.0); 11];
        points[0] = Some(0.0);
        points[1] = Some(50.0);
        points[2] = None;
        map.add("first".into(), points);
        map.add("second row".into(), [Some(75.0); 11]);
        let picture = Picture::of(&map.draw())?;
        let left = 24 + 8 * 10;
        assert_eq!(picture.width, (left + 11 * 52 + 12) as u32);
        assert_eq!(picture.height, 66 + 2 * 30 + 12);
        let corner =
            |column: i32, row: i32| picture.at((left + 52 * column + 2, 66 + 30 * row + 2));
        let first = [0, 1, 2, 3, 10].map(|column| corner(column, 0));
        assert_eq!(first, [RAMP[0], RAMP[1], GREY, RAMP[2], RAMP[2]]);
        assert_eq!(corner(10, 1), Rgb888::new(140, 188, 110));
        assert!(picture.count((left, 66), (51, 29), BLACK) > 5, "the number");
        assert!(picture.count((12, 96), (80, 30), BLACK) > 30, "the name");
        Ok(())
    }
}
