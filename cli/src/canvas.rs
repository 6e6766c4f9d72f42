//! A picture in memory, with letters that need no fonts of the system.

use std::convert::Infallible;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::Result;
use embedded_graphics::Drawable;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::FONT_8X13;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::prelude::Pixel;
use embedded_graphics::primitives::{Circle, Line, Primitive, PrimitiveStyle, Rectangle};
pub use embedded_graphics::text::Alignment;
use embedded_graphics::text::{Baseline, Text, TextStyleBuilder};

/// Letters and axes.
pub const BLACK: Rgb888 = Rgb888::new(30, 30, 30);
/// Lines behind what is shown.
pub const GREY: Rgb888 = Rgb888::new(220, 220, 220);
/// Colours that are told apart with most kinds of colour blindness (after Okabe and Ito, 2008).
pub const COLORS: [Rgb888; 8] = [
    Rgb888::new(0, 114, 178),
    Rgb888::new(213, 94, 0),
    Rgb888::new(0, 158, 115),
    Rgb888::new(204, 121, 167),
    Rgb888::new(230, 159, 0),
    Rgb888::new(86, 180, 233),
    Rgb888::new(110, 110, 110),
    Rgb888::new(190, 180, 20),
];
/// Columns that a letter takes.
pub const LETTER: i32 = 8;

/// Rows of pixels, white at first.
pub struct Canvas {
    width: i32,
    height: i32,
    pixels: Vec<u8>,
}

impl Canvas {
    /// A white one.
    pub fn new(width: i32, height: i32) -> Self {
        Canvas {
            width,
            height,
            pixels: vec![255; (width * height * 3) as usize],
        }
    }

    /// A filled rectangle.
    pub fn fill(&mut self, (x, y): (i32, i32), (width, height): (i32, i32), color: Rgb888) {
        let area = Rectangle::new(Point::new(x, y), Size::new(width as u32, height as u32));
        let Ok(()) = area
            .into_styled(PrimitiveStyle::with_fill(color))
            .draw(self);
    }

    /// A line of one pixel.
    pub fn line(&mut self, from: (i32, i32), to: (i32, i32), color: Rgb888) {
        let line = Line::new(Point::from(from), Point::from(to));
        let Ok(()) = line
            .into_styled(PrimitiveStyle::with_stroke(color, 1))
            .draw(self);
    }

    /// A filled disc.
    pub fn disc(&mut self, center: (i32, i32), radius: u32, color: Rgb888) {
        let disc = Circle::with_center(Point::from(center), 2 * radius + 1);
        let Ok(()) = disc
            .into_styled(PrimitiveStyle::with_fill(color))
            .draw(self);
    }

    /// A line of text, its middle at the height of a point; it begins there, or as `alignment` says.
    pub fn text(&mut self, text: &str, at: (i32, i32), alignment: Alignment, color: Rgb888) {
        let style = TextStyleBuilder::new()
            .alignment(alignment)
            .baseline(Baseline::Middle)
            .build();
        let letters = MonoTextStyle::new(&FONT_8X13, color);
        let text = Text::with_text_style(text, Point::from(at), letters, style);
        let Ok(_end) = text.draw(self);
    }

    /// Writes a PNG file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file = BufWriter::new(File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        Ok(writer.finish()?)
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<Rgb888>>,
    {
        for Pixel(Point { x, y }, color) in pixels {
            if (0..self.width).contains(&x) && (0..self.height).contains(&y) {
                let at = ((y * self.width + x) * 3) as usize;
                self.pixels[at..at + 3].copy_from_slice(&[color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::BufReader;

    use super::*;

    /// A PNG file as it was read back.
    pub struct Picture {
        pub width: u32,
        pub height: u32,
        pixels: Vec<u8>,
    }

    impl Picture {
        pub fn of(canvas: &Canvas) -> Result<Self> {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("picture.png");
            canvas.save(&path)?;
            let mut reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
            let bytes = reader.output_buffer_size().expect("it is small");
            let mut pixels = vec![0; bytes];
            let info = reader.next_frame(&mut pixels)?;
            Ok(Picture {
                width: info.width,
                height: info.height,
                pixels,
            })
        }

        pub fn at(&self, (x, y): (i32, i32)) -> Rgb888 {
            let at = ((y as u32 * self.width + x as u32) * 3) as usize;
            Rgb888::new(self.pixels[at], self.pixels[at + 1], self.pixels[at + 2])
        }

        /// Pixels of a colour within a rectangle.
        pub fn count(
            &self,
            (x, y): (i32, i32),
            (width, height): (i32, i32),
            color: Rgb888,
        ) -> usize {
            let points = (y..y + height).flat_map(|y| (x..x + width).map(move |x| (x, y)));
            points.filter(|&point| self.at(point) == color).count()
        }
    }

    #[test]
    fn what_is_drawn_is_read_back() -> Result<()> {
        let mut canvas = Canvas::new(100, 60);
        canvas.fill((10, 20), (5, 4), BLACK);
        canvas.disc((50, 30), 3, GREY);
        canvas.text("Hg", (70, 30), Alignment::Left, BLACK);
        canvas.line((-10, 59), (200, 59), BLACK);
        let picture = Picture::of(&canvas)?;
        assert_eq!((picture.width, picture.height), (100, 60));
        assert_eq!(picture.count((0, 0), (45, 50), BLACK), 20);
        assert_eq!(picture.at((14, 23)), BLACK);
        assert_eq!(picture.at((15, 24)), Rgb888::WHITE);
        assert_eq!(picture.at((50, 30)), GREY);
        assert_eq!(picture.at((54, 30)), Rgb888::WHITE);
        assert!(picture.count((70, 23), (16, 14), BLACK) > 20, "letters");
        assert_eq!(picture.count((0, 59), (100, 1), BLACK), 100);
        Ok(())
    }
}
