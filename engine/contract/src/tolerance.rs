//! How far two backends may differ.

/// Bounds the difference of an output from the reference, row by row:
/// `|found - expected| <= absolute + relative * max |expected row|`.
///
/// A row is the unit because rounding in a sum scales with its largest terms, not with the element that the sum happens to give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// A bound that does not depend on the values.
    pub absolute: f32,
    /// A share of the largest magnitude in the reference's row.
    pub relative: f32,
}

/// The element that exceeds a tolerance by most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Excess {
    /// The row of the element.
    pub row: usize,
    /// The column of the element.
    pub col: usize,
    /// What the reference has.
    pub expected: f32,
    /// What the other backend has.
    pub found: f32,
    /// The difference as a share of what is allowed; above 1 is a failure.
    pub share: f32,
}

impl Tolerance {
    /// The element with the largest share of its bound. Where a NaN or an infinity is in either row, what is not equal counts as an infinite share.
    ///
    /// `expected` and `found` hold the same number of rows of `cols` values.
    pub fn worst(&self, expected: &[f32], found: &[f32], cols: usize) -> Option<Excess> {
        let mut worst: Option<Excess> = None;
        for (row, (expected, found)) in expected.chunks(cols).zip(found.chunks(cols)).enumerate() {
            let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let bound = self.absolute + self.relative * largest;
            for (col, (&expected, &found)) in expected.iter().zip(found).enumerate() {
                let difference = (expected - found).abs();
                let share = if expected == found {
                    0.0
                } else if difference.is_finite() && bound.is_finite() {
                    // No tolerance at all makes every difference infinitely large.
                    if bound > 0.0 {
                        difference / bound
                    } else {
                        f32::INFINITY
                    }
                } else {
                    f32::INFINITY
                };
                if worst.is_none_or(|w| share > w.share) {
                    worst = Some(Excess {
                        row,
                        col,
                        expected,
                        found,
                        share,
                    });
                }
            }
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_scales_with_the_row() {
        let tolerance = Tolerance {
            absolute: 0.0,
            relative: 0.01,
        };
        let worst = tolerance.worst(&[100.0, 0.0, 1.0, 0.0], &[100.0, 0.5, 1.0, 0.02], 2);
        let worst = worst.expect("there are elements");
        assert_eq!((worst.row, worst.col), (1, 1));
        assert!((worst.share - 2.0).abs() < 1e-5);
    }

    #[test]
    fn nan_never_passes() {
        let tolerance = Tolerance {
            absolute: 1e9,
            relative: 1.0,
        };
        let worst = tolerance
            .worst(&[1.0], &[f32::NAN], 1)
            .expect("one element");
        assert!(worst.share > 1.0);
    }

    #[test]
    fn infinities_hide_nothing() {
        let tolerance = Tolerance {
            absolute: 1.0,
            relative: 0.1,
        };
        let worst = |expected: &[f32], found: &[f32]| {
            let worst = tolerance.worst(expected, found, expected.len());
            worst.expect("there are elements").share
        };
        let infinity = f32::INFINITY;
        assert_eq!(worst(&[infinity, 1.0], &[infinity, 1.0]), 0.0);
        assert_eq!(worst(&[infinity, 1.0], &[infinity, 99.0]), infinity);
        assert_eq!(worst(&[infinity, 1.0], &[65504.0, 1.0]), infinity);
        assert_eq!(worst(&[infinity], &[-infinity]), infinity);
    }
}
