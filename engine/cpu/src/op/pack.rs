use half::f16;
use half::slice::HalfFloatSliceExt;
use longwave_contract::BackendError;
use longwave_contract::kv::{BLOCK, ComponentDesc};
use longwave_contract::op::Pack;
use rayon::prelude::*;

use super::store;
use crate::latent;
use crate::memory::Memory;
use crate::row::Matrix;

/// See [`Pack`].
pub(super) fn run(op: &Pack, memory: &mut Memory) -> Result<(), BackendError> {
    let (name, shape) = (Pack::NAME, op.shape);
    memory.lend(op.latents, |memory, mut latents| {
        let count = memory.count(name, op.count, op.blocks.rows)?;
        let blocks = store::blocks(name, &memory.matrix(op.blocks)?, count, op.staged.rows)?;
        let entries = memory.matrix(op.entries)?.u32s(0);
        let staged = memory.matrix(op.staged)?;
        let (z, residual) = (memory.matrix(op.z)?, memory.matrix(op.residual)?);
        let mean = memory.matrix(op.mean)?.f32s(0);
        let metric = memory.matrix(op.metric)?.f32s(0);
        let energy = memory.matrix(op.energy)?.f32s(0);
        let components = components(&memory.matrix(op.components)?);
        for (number, block) in blocks.iter().enumerate() {
            let at = store::record(name, entries, block.blocks, block.index, op.latents)?;
            let record = latents.u32s_mut(at);
            record[shape.scales_at() as usize..].fill(0);
            let lanes = (0..BLOCK).filter(|&lane| !shape.is_reference(lane));
            let lanes: Vec<u32> = lanes.collect();
            let first = number * BLOCK as usize;
            let coded: Vec<Coded> = lanes
                .into_par_iter()
                .map(|lane| {
                    let row = first + lane as usize;
                    let z = z.f32s(row);
                    let scales = latent::scales(&shape, &components, z);
                    let mut codes = vec![0; shape.code_words() as usize];
                    latent::store_codes(&shape, &components, &scales, z, &mut codes);
                    let mut restored = vec![0.0; z.len()];
                    latent::load_codes(&shape, &components, &scales, &codes, &mut restored);
                    let error = error(residual.f32s(row), metric, z, &restored, energy);
                    Coded {
                        lane,
                        scales,
                        codes,
                        error,
                    }
                })
                .collect();
            for coded in &coded {
                let halves: &mut [f16] = bytemuck::cast_slice_mut(record);
                halves[latent::scale_halves(&shape, coded.lane)].copy_from_slice(&coded.scales);
                record[latent::code_words(&shape, coded.lane)].copy_from_slice(&coded.codes);
            }
            let mut worst: Vec<(f64, u32)> = coded
                .iter()
                .map(|coded| (coded.error, coded.lane))
                .collect();
            worst.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let mut x = vec![0.0; shape.cols as usize];
            for index in 0..shape.escapes {
                let lane = worst.get(index as usize).map(|worst| worst.1);
                record[(shape.escapes_at() + index) as usize] = lane.unwrap_or(u32::MAX);
                if let Some(lane) = lane {
                    staged
                        .f16s((block.source + lane) as usize)
                        .convert_to_f32_slice(&mut x);
                    let words = &mut record[latent::escape_words(&shape, index)];
                    latent::store_exact(&shape, mean, &x, words);
                }
            }
        }
        Ok(())
    })
}

/// The descriptors of a components tensor.
pub(super) fn components(matrix: &Matrix<'_>) -> Vec<ComponentDesc> {
    (0..matrix.rows())
        .map(|index| *bytemuck::from_bytes(bytemuck::cast_slice(matrix.u32s(index))))
        .collect()
}

struct Coded {
    lane: u32,
    scales: Vec<f16>,
    codes: Vec<u32>,
    error: f64,
}

/// What the transform leaves out, and what the codes lose.
fn error(residual: &[f32], metric: &[f32], z: &[f32], restored: &[f32], energy: &[f32]) -> f64 {
    let square = |weight: f32, value: f32| f64::from(weight) * f64::from(value).powi(2);
    let all: f64 = residual
        .iter()
        .zip(metric)
        .map(|(d, m)| square(*m, *d))
        .sum();
    let kept: f64 = z.iter().zip(energy).map(|(z, e)| square(*e, *z)).sum();
    let lost = z.iter().zip(restored).zip(energy);
    let lost: f64 = lost.map(|((z, r), e)| square(*e, z - r)).sum();
    all - kept + lost
}
