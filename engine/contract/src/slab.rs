//! Slabs: how a buffer larger than a binding is cut.

/// Cuts a buffer into slabs of whole rows, none above a device's limit.
///
/// A backend allocates one device buffer per slab and launches a kernel once per slab; kernels never see the cut. `row` is the granule
/// that no slab may split: the row pitch of the tensor that the buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slabs {
    bytes: u64,
    slab_bytes: u64,
}

impl Slabs {
    /// Cuts `bytes` into slabs of at most `limit` bytes at multiples of `row` bytes; `None` when a single row exceeds the limit.
    pub fn new(bytes: u64, row: u64, limit: u64) -> Option<Self> {
        if bytes <= limit {
            return Some(Slabs {
                bytes,
                slab_bytes: bytes.max(1),
            });
        }
        let slab_bytes = (limit / row.max(1)) * row.max(1);
        (slab_bytes > 0).then_some(Slabs { bytes, slab_bytes })
    }

    /// How many slabs there are; at least one.
    pub fn count(&self) -> usize {
        self.bytes.div_ceil(self.slab_bytes).max(1) as usize
    }

    /// Bytes of every slab but the last.
    pub fn slab_bytes(&self) -> u64 {
        self.slab_bytes
    }

    /// Bytes of slab `index`.
    pub fn size(&self, index: usize) -> u64 {
        let start = index as u64 * self.slab_bytes;
        self.bytes.saturating_sub(start).min(self.slab_bytes)
    }

    /// The pieces `(slab, offset within the slab, length)` that cover `length` bytes from `offset`.
    pub fn pieces(
        &self,
        offset: u64,
        length: u64,
    ) -> impl Iterator<Item = (usize, u64, u64)> + use<> {
        let slab_bytes = self.slab_bytes;
        let mut at = offset;
        let end = offset + length;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let slab = at / slab_bytes;
            let within = at % slab_bytes;
            let take = (slab_bytes - within).min(end - at);
            at += take;
            Some((slab as usize, within, take))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_are_whole_rows_and_cover_the_buffer() {
        let slabs = Slabs::new(1000, 48, 100).expect("a row fits");
        assert_eq!(slabs.slab_bytes(), 96);
        assert_eq!(slabs.count(), 11);
        assert_eq!((0..11).map(|i| slabs.size(i)).sum::<u64>(), 1000);
        assert_eq!(
            slabs.pieces(90, 110).collect::<Vec<_>>(),
            vec![(0, 90, 6), (1, 0, 96), (2, 0, 8)]
        );
    }

    #[test]
    fn a_row_beyond_the_limit_cannot_be_cut() {
        assert_eq!(Slabs::new(1000, 200, 100), None);
        assert_eq!(Slabs::new(100, 200, 100).map(|s| s.count()), Some(1));
    }
}
