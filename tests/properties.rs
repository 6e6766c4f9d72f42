//! Rung 0: properties of allocators, slabs and views for any input.

use std::collections::HashSet;

use longwave_contract::kv::ViewDesc;
use longwave_contract::{DType, Slabs};
use longwave_runtime::kv::PageAllocator;
use proptest::prelude::*;

proptest! {
    /// No page is held twice, and none is lost, whatever is taken and given back.
    #[test]
    fn pages_are_neither_lost_nor_shared(total in 1u32..200, moves in prop::collection::vec((any::<bool>(), 0u32..40), 1..100)) {
        let mut allocator = PageAllocator::new(total);
        let mut held: Vec<u32> = Vec::new();
        for (take, count) in moves {
            if take {
                match allocator.take(count) {
                    Ok(pages) => held.extend(pages),
                    Err(_) => prop_assert!(count > allocator.free_pages()),
                }
            } else {
                let rest = held.len().saturating_sub(count as usize);
                allocator.give_back(held.split_off(rest));
            }
            let distinct: HashSet<u32> = held.iter().copied().collect();
            prop_assert_eq!(distinct.len(), held.len());
            prop_assert!(held.iter().all(|&page| page < total));
            prop_assert_eq!(allocator.free_pages() as usize + held.len(), total as usize);
        }
    }

    /// Slabs cover a buffer once, in order, within the limit, and never split a row.
    #[test]
    fn slabs_partition_a_buffer(rows in 1u64..500, row in (1u64..64).prop_map(|r| r * 16), limit in 16u64..4096, at in 0u64..1000, length in 0u64..1000) {
        let bytes = rows * row;
        match Slabs::new(bytes, row, limit) {
            None => prop_assert!(row > limit),
            Some(slabs) => {
                prop_assert_eq!((0..slabs.count()).map(|index| slabs.size(index)).sum::<u64>(), bytes);
                prop_assert!((0..slabs.count()).all(|index| slabs.size(index) <= limit.max(1)));
                prop_assert!(slabs.count() == 1 || slabs.slab_bytes() % row == 0);
                let (at, length) = (at.min(bytes), length.min(bytes - at.min(bytes)));
                let mut next = at;
                for (slab, offset, piece) in slabs.pieces(at, length) {
                    prop_assert_eq!(slab as u64 * slabs.slab_bytes() + offset, next);
                    prop_assert!(offset + piece <= slabs.size(slab));
                    next += piece;
                }
                prop_assert_eq!(next, at + length);
            }
        }
    }

    /// Each row of a chunk sees one token more than the row before it.
    #[test]
    fn rows_of_a_chunk_see_one_more_each(old in 0u32..10_000, rows in 1u32..600, start in 0u32..1_000_000) {
        let view = ViewDesc { first: 0, length: old + rows, last: start + rows - 1, run: 1 };
        for i in 0..rows {
            prop_assert_eq!(view.visible(start + i), old + i + 1);
        }
    }

    /// Rows of any type are aligned and hold their codes and scales.
    #[test]
    fn rows_hold_what_they_must(cols in (1u32..300).prop_map(|c| c * 32)) {
        for dtype in DType::ALL {
            let format = dtype.row_format(cols);
            prop_assert_eq!(format.row_bytes % 16, 0);
            prop_assert_eq!(format.scale_offset % 16, 0);
            prop_assert!(format.scale_offset * 8 >= u64::from(cols) * dtype.bits());
            let groups = dtype.group().map_or(0, |group| u64::from(cols / group));
            let scale_bytes = if dtype.has_minimum() { 4 } else { 2 };
            prop_assert!(format.row_bytes - format.scale_offset >= groups * scale_bytes);
        }
    }
}
