//! Products of packed tiles: what the matrix kernel and attention over chunks share.
//!
//! A *stack* is [`HEIGHT`] rows of the left side, packed as `[depth][HEIGHT]`. A *panel* is [`WIDTH`] rows of the right side, packed as
//! `[WIDTH / strip][depth][strip]`, where a strip is two vectors wide on the processor at hand. Their product is [`HEIGHT`] by [`WIDTH`].

use pulp::Simd;

use crate::layout::Group;
use crate::line::Floats;
use crate::row::CHUNK;

/// Rows of a stack.
pub(crate) const HEIGHT: usize = 6;
/// Rows of a panel.
pub(crate) const WIDTH: usize = 32;
/// Products that are summed in f32 before they are added to an f64.
const BLOCK: usize = 64;

/// A product of a stack and a panel: `[HEIGHT][WIDTH]`.
pub(crate) type Tile = [[f64; WIDTH]; HEIGHT];

/// Packs rows, each of `depth` elements, into stacks; what is missing of the last is zero.
pub(crate) fn pack_stacks<'a>(
    rows: usize,
    depth: usize,
    row: impl Fn(usize) -> &'a [f32],
    packed: &mut Floats,
) {
    packed.resize(rows.div_ceil(HEIGHT) * HEIGHT * depth);
    for (stack, packed) in packed.chunks_exact_mut(HEIGHT * depth.max(1)).enumerate() {
        let lanes = HEIGHT.min(rows - stack * HEIGHT);
        if lanes < HEIGHT {
            packed.fill(0.0);
        }
        for lane in 0..lanes {
            let source = &row(stack * HEIGHT + lane)[..depth];
            for (target, &value) in packed.as_chunks_mut::<HEIGHT>().0.iter_mut().zip(source) {
                target[lane] = value;
            }
        }
    }
}

/// Writes `columns` elements from `first` on of all rows of a panel; `rows` holds row after row, `pitch` apart.
#[inline(always)]
pub(crate) fn pack_panel<S: Simd>(
    panel: &mut [f32],
    depth: usize,
    first: usize,
    columns: usize,
    rows: &[f32],
    pitch: usize,
) {
    let strip = 2 * S::F32_LANES;
    for (index, strip_out) in panel.chunks_exact_mut(depth * strip).enumerate() {
        let rows = &rows[index * strip * pitch..];
        let out = &mut strip_out[first * strip..][..columns * strip];
        for (column, out) in out.chunks_exact_mut(strip).enumerate() {
            for (lane, out) in out.iter_mut().enumerate() {
                *out = rows[lane * pitch + column];
            }
        }
    }
}

/// Writes one column of a panel: element `at` of each of its rows.
#[inline(always)]
pub(crate) fn pack_column<S: Simd>(panel: &mut [f32], depth: usize, at: usize, column: &[f32]) {
    let strip = 2 * S::F32_LANES;
    for (out, column) in panel
        .chunks_exact_mut(depth * strip)
        .zip(column.chunks(strip))
    {
        out[at * strip..][..column.len()].copy_from_slice(column);
    }
}

/// `tile += stack * panel`.
#[inline(always)]
pub(crate) fn multiply<S: Simd>(
    simd: S,
    stack: &[f32],
    panel: &[f32],
    depth: usize,
    tile: &mut Tile,
) {
    let strip = 2 * S::F32_LANES;
    for (index, panel) in panel.chunks_exact(depth * strip).enumerate() {
        let blocks = stack
            .chunks(BLOCK * HEIGHT)
            .zip(panel.chunks(BLOCK * strip));
        for (stack, panel) in blocks {
            let mut sums = [[simd.splat_f32s(0.0); 2]; HEIGHT];
            let (vectors, _) = S::as_simd_f32s(panel);
            let pairs = vectors.as_chunks::<2>().0;
            for (left, right) in stack.as_chunks::<HEIGHT>().0.iter().zip(pairs) {
                for (sum, &left) in sums.iter_mut().zip(left) {
                    let left = simd.splat_f32s(left);
                    sum[0] = simd.mul_add_e_f32s(left, right[0], sum[0]);
                    sum[1] = simd.mul_add_e_f32s(left, right[1], sum[1]);
                }
            }
            for (row, sum) in tile.iter_mut().zip(&sums) {
                let sum: &[f32] = bytemuck::cast_slice(sum);
                for (total, &sum) in row[index * strip..][..strip].iter_mut().zip(sum) {
                    *total += f64::from(sum);
                }
            }
        }
    }
}

/// `sums += left .* right`, lane by lane.
#[inline(always)]
pub(crate) fn add_products<S: Simd>(simd: S, left: &Group, right: &Group, sums: &mut Group) {
    let pairs = S::as_simd_f32s(left).0.iter().zip(S::as_simd_f32s(right).0);
    for (sum, (&left, &right)) in S::as_mut_simd_f32s(sums).0.iter_mut().zip(pairs) {
        *sum = simd.mul_add_e_f32s(left, right, *sum);
    }
}

/// The sum of a group.
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, values: &Group) -> f32 {
    let mut total = simd.splat_f32s(0.0);
    for &values in S::as_simd_f32s(values).0 {
        total = simd.add_f32s(total, values);
    }
    simd.reduce_sum_f32s(total)
}

/// The inner product of two vectors: of each chunk in f32, four sums in each lane and then a tree; of chunks in f64.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, left: &[f32], right: &[f32]) -> f64 {
    let chunks = left.chunks(CHUNK).zip(right.chunks(CHUNK));
    chunks.map(|(l, r)| f64::from(dot_chunk(simd, l, r))).sum()
}

#[inline(always)]
fn dot_chunk<S: Simd>(simd: S, left: &[f32], right: &[f32]) -> f32 {
    let (left, left_rest) = S::as_simd_f32s(left);
    let (right, right_rest) = S::as_simd_f32s(right);
    let mut sums = [simd.splat_f32s(0.0); 4];
    let (left_fours, left_ones) = left.as_chunks::<4>();
    let (right_fours, right_ones) = right.as_chunks::<4>();
    for (left, right) in left_fours.iter().zip(right_fours) {
        for ((sum, &left), &right) in sums.iter_mut().zip(left).zip(right) {
            *sum = simd.mul_add_e_f32s(left, right, *sum);
        }
    }
    for ((sum, &left), &right) in sums.iter_mut().zip(left_ones).zip(right_ones) {
        *sum = simd.mul_add_e_f32s(left, right, *sum);
    }
    let sum = simd.add_f32s(
        simd.add_f32s(sums[0], sums[1]),
        simd.add_f32s(sums[2], sums[3]),
    );
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(l, r)| l * r).sum();
    simd.reduce_sum_f32s(sum) + rest
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Simd, WithSimd};

    use super::{HEIGHT, Tile, WIDTH, dot, multiply, pack_column, pack_panel, pack_stacks};
    use crate::line::Floats;

    /// Products of every row of `left` with every row of `right`, three ways.
    struct Ways<'a> {
        left: &'a [Vec<f32>],
        right: &'a [Vec<f32>],
    }

    impl WithSimd for Ways<'_> {
        type Output = [Tile; 3];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> [Tile; 3] {
            let depth = self.left.first().map_or(0, Vec::len);
            let mut stack = Floats::default();
            pack_stacks(HEIGHT, depth, |row| &self.left[row], &mut stack);
            let mut ways = [[[0.0; WIDTH]; HEIGHT]; 3];

            let mut panel = Floats::zeros(WIDTH * depth);
            let rows = self.right.concat();
            let split = depth / 2;
            pack_panel::<S>(&mut panel, depth, 0, split, &rows, depth);
            pack_panel::<S>(
                &mut panel,
                depth,
                split,
                depth - split,
                &rows[split..],
                depth,
            );
            multiply(simd, &stack, &panel, depth, &mut ways[0]);

            let mut panel = Floats::zeros(WIDTH * depth);
            for at in 0..depth {
                let column: Vec<f32> = self.right.iter().map(|row| row[at]).collect();
                pack_column::<S>(&mut panel, depth, at, &column);
            }
            multiply(simd, &stack, &panel, depth, &mut ways[1]);

            for (sums, left) in ways[2].iter_mut().zip(self.left) {
                for (sum, right) in sums.iter_mut().zip(self.right) {
                    *sum = dot(simd, left, right);
                }
            }
            ways
        }
    }

    /// The result with every instruction set that the processor has.
    fn each_instruction_set(ways: impl Fn() -> Ways<'static>) -> Vec<[Tile; 3]> {
        let mut results = vec![Arch::new().dispatch(ways()), ways().with_simd(pulp::Scalar)];
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            results.push(Simd::vectorize(simd, ways()));
        }
        results.dedup();
        results
    }

    #[test]
    fn packed_products_agree_with_f64_on_every_instruction_set() {
        for depth in [1usize, 6, 64, 70, 200, 1100] {
            let value = |row: usize, at: usize| ((row * 37 + at * 101) % 211) as f32 / 211.0 - 0.5;
            let matrix = |rows: usize, shift: usize| -> &'static [Vec<f32>] {
                let rows =
                    (0..rows).map(|row| (0..depth).map(|at| value(row + shift, at)).collect());
                Vec::leak(rows.collect())
            };
            let (left, right) = (matrix(HEIGHT, 0), matrix(WIDTH, 50));
            for ways in each_instruction_set(|| Ways { left, right }) {
                for tile in ways {
                    for (sums, left) in tile.iter().zip(left) {
                        for (sum, right) in sums.iter().zip(right) {
                            let pairs = left.iter().zip(right);
                            let products = pairs.map(|(l, r)| f64::from(*l) * f64::from(*r));
                            let (expected, size) = products
                                .fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                            assert!((sum - expected).abs() <= 1e-6 * size, "depth {depth}");
                        }
                    }
                }
            }
        }
    }
}
