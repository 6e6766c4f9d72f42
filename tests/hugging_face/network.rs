//! Codecs from checkpoints: rows that are compressed and restored, against the definition in f64 of networks that the test draws.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use half::f16;
use longwave_contract::kv::{BLOCK, BlockDesc, Entry, LatentShape, PAGE, StoreDesc, Tier};
use longwave_contract::op::{Activation, Tokens};
use longwave_contract::{Backend, DType, Recording, Tensor};
use longwave_runtime::codec::{
    CheckpointOptions, Codec, EncodeTensors, RestoreTensors, open_checkpoint,
};
use longwave_runtime::model::ModelConfig;
use longwave_tests::latent::halves;
use longwave_tests::network::activated;
use longwave_tests::rig::{Rig, Values};
use safetensors::tensor::{Dtype, TensorView};

/// Latents near 1 are rounded to f16; where the engine's differ by a rounding, one may become its neighbour, 2^-10 away.
const TOLERANCE: f64 = 1e-3;
/// Besides, of the largest value of a row, where products round their inputs to f16: what an op's tolerance adds for one product, for each of the up to
/// four that follow one another.
const HALF_TOLERANCE: f64 = 4.0 / 1024.0;

const SINKS: usize = 8;
const BLOCKS: usize = 2;
const TAIL: usize = 20;
const CODED: usize = BLOCKS * BLOCK as usize;
const ALL: usize = SINKS + CODED + TAIL;
const RANK: usize = 32;
/// No multiple of 32.
const HIDDEN: usize = 40;
/// What checkpoints have that do not say: every tenth token of a block, and the mean of four.
const STRIDE: usize = 10;
const NEIGHBOURS: usize = 4;

/// An activation, or none.
pub type Kind = Option<Activation>;

/// A matrix and its bias.
#[derive(Clone)]
struct Affine {
    rows: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Affine {
    fn draw(rig: &mut Rig, rows: usize, cols: usize, biased: bool) -> Self {
        let scale = 2.0 / (cols as f32).sqrt();
        let mut draw = |count: usize, scale: f32| -> Vec<f32> {
            let value = |_| f16::from_f32(scale * rig.value(Values::Flat)).to_f32();
            (0..count).map(value).collect()
        };
        Affine {
            rows,
            weight: draw(rows * cols, scale),
            bias: draw(if biased { rows } else { 0 }, 1.0),
        }
    }

    fn apply(&self, v: &[f64]) -> Vec<f64> {
        let rows = self.weight.chunks_exact(v.len()).enumerate();
        rows.map(|(index, row)| {
            let terms = row.iter().zip(v);
            let sum: f64 = terms.map(|(weight, v)| f64::from(*weight) * v).sum();
            sum + self.bias.get(index).copied().map_or(0.0, f64::from)
        })
        .collect()
    }
}

/// An encoder or a decoder.
#[derive(Clone)]
struct Network {
    inner: Option<(Activation, Affine)>,
    outer: Affine,
}

impl Network {
    fn draw(rig: &mut Rig, kind: Kind, (rows, cols): (usize, usize), biased: bool) -> Self {
        let inner = kind.map(|activation| {
            let inputs = activation.inputs(HIDDEN as u32).unwrap_or(0);
            (activation, Affine::draw(rig, inputs as usize, cols, biased))
        });
        let columns = if kind.is_some() { HIDDEN } else { cols };
        Network {
            inner,
            outer: Affine::draw(rig, rows, columns, biased),
        }
    }

    fn apply(&self, v: &[f64]) -> Vec<f64> {
        match &self.inner {
            None => self.outer.apply(v),
            Some((activation, inner)) => self.outer.apply(&activated(*activation, &inner.apply(v))),
        }
    }

    /// The same with the halves of an inner layer for each other.
    fn swapped(&self) -> Self {
        let mut swapped = self.clone();
        if let Some((_, inner)) = &mut swapped.inner {
            let (weights, biases) = (inner.weight.len() / 2, inner.bias.len() / 2);
            inner.weight.rotate_left(weights);
            inner.bias.rotate_left(biases);
        }
        swapped
    }

    /// Its tensors as a checkpoint names them.
    fn tensors(&self, network: &str) -> Vec<(String, Vec<usize>, Vec<u8>)> {
        let affine = |prefix: &str, affine: &Affine| {
            let bytes = |values: &[f32]| bytemuck::cast_slice(values).to_vec();
            let shape = vec![affine.rows, affine.weight.len() / affine.rows];
            let name = |part: &str| format!("{network}.{prefix}{part}");
            let weight = (name("weight"), shape, bytes(&affine.weight));
            let bias = (name("bias"), vec![affine.rows], bytes(&affine.bias));
            let bias = (!affine.bias.is_empty()).then_some(bias);
            [weight].into_iter().chain(bias)
        };
        match &self.inner {
            None => affine("", &self.outer).collect(),
            Some((activation, inner)) => {
                let [first, second] = match activation {
                    Activation::Gelu => ["0.", "2."],
                    Activation::SwiGlu => ["w12.", "w3."],
                };
                affine(first, inner)
                    .chain(affine(second, &self.outer))
                    .collect()
            }
        }
    }
}

/// Compresses and restores a sequence with the codec of a checkpoint that is written for it.
pub fn restores_as_defined(
    backend: &Arc<dyn Backend>,
    config: &ModelConfig,
    (down, up): (Kind, Kind),
    biased: bool,
) -> Result<()> {
    let cols = config.shape.cols() as usize;
    let rig = &mut Rig::new(backend, 11);
    let gated = down == Some(Activation::SwiGlu);
    let down = Network::draw(rig, down, (RANK, cols), biased);
    let up = Network::draw(rig, up, (cols, RANK), biased);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    write(&path, &down, &up)?;
    let codecs = open_checkpoint(&path, config, &CheckpointOptions::default())?;
    let codec = codecs.into_iter().flatten().next();
    let codec = codec.context("the checkpoint has no codec")?;

    let staged = halves(rig, ALL as u32, cols as u32)?;
    let bytes = rig.read(staged)?;
    let rows: Vec<Vec<f64>> = bytes
        .chunks_exact(2 * cols)
        .map(|row| {
            let halves = row.as_chunks::<2>().0.iter();
            halves
                .map(|half| f16::from_le_bytes(*half).to_f64())
                .collect()
        })
        .collect();
    let found = through(rig, &*codec, staged, &bytes)?;

    let constant = up.apply(&vec![0.0; RANK]);
    let largest = constant
        .iter()
        .fold(0.0f64, |most, value| most.max(value.abs()));
    ensure!(
        !biased || largest > 0.1,
        "the decoder makes nothing of zeros"
    );
    let half = match backend.caps().half_products {
        true => HALF_TOLERANCE,
        false => 0.0,
    };
    let mut swapped = 0.0f64;
    for (position, (found, x)) in found.iter().zip(&rows).enumerate() {
        let distance = |expected: &[f64]| {
            let pairs = found.iter().zip(expected);
            pairs.fold(0.0f64, |most, (a, b)| most.max((f64::from(*a) - b).abs()))
        };
        if position >= SINKS + CODED || is_reference(&position) {
            ensure!(distance(x) == 0.0, "token {position} is not exact");
            continue;
        }
        let base = base(&rows, position);
        let expected = restored(&down, &up, x, &base);
        let worst = distance(&expected);
        let largest = expected
            .iter()
            .fold(0.0f64, |most, value| most.max(value.abs()));
        let tolerance = TOLERANCE + half * largest;
        ensure!(worst < tolerance, "token {position}: off by {worst}");
        swapped = swapped.max(distance(&restored(&down.swapped(), &up, x, &base)));
    }
    ensure!(!gated || swapped > 0.1, "the halves make no difference");
    Ok(())
}

/// Whether a token before the tail is a reference: a sink, or one of every ten of a block.
fn is_reference(position: &usize) -> bool {
    let after = position.checked_sub(SINKS);
    after.is_none_or(|after| (after % BLOCK as usize).is_multiple_of(STRIDE))
}

/// The mean of the references nearest to a token, none of which comes after it.
fn base(rows: &[Vec<f64>], position: usize) -> Vec<f64> {
    let mut near: Vec<(f64, usize)> = (0..=position)
        .filter(is_reference)
        .map(|at| {
            let pairs = rows[at].iter().zip(&rows[position]);
            (pairs.map(|(a, b)| (a - b).powi(2)).sum(), at)
        })
        .collect();
    near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    near.truncate(NEIGHBOURS);
    let mean = |col: usize| {
        let values = near.iter().map(|(_, at)| rows[*at][col]);
        values.sum::<f64>() / NEIGHBOURS as f64
    };
    (0..rows[position].len()).map(mean).collect()
}

/// `r + up(z)` with `z = down(x) - down(r)` in f16.
fn restored(down: &Network, up: &Network, x: &[f64], r: &[f64]) -> Vec<f64> {
    let (of_x, of_r) = (down.apply(x), down.apply(r));
    let z = of_x.iter().zip(of_r);
    let z: Vec<f64> = z.map(|(x, r)| f16::from_f64(x - r).to_f64()).collect();
    r.iter().zip(up.apply(&z)).map(|(r, up)| r + up).collect()
}

fn write(path: &Path, down: &Network, up: &Network) -> Result<()> {
    let networks = [(down, "compress_down"), (up, "compress_up")];
    let tensors = networks
        .map(|(network, name)| network.tensors(name))
        .concat();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    std::fs::write(path, safetensors::serialize(views, None)?)?;
    Ok(())
}

/// What a codec restores of a sequence whose rows are `staged`, in order, and also as `bytes`.
fn through(
    rig: &mut Rig,
    codec: &dyn Codec,
    staged: Tensor,
    bytes: &[u8],
) -> Result<Vec<Vec<f32>>> {
    let shape: LatentShape = codec.shape();
    let cols = shape.cols;
    let mut parameters = Vec::new();
    for parameter in codec.parameters() {
        let (dtype, rows, cols) = (parameter.dtype, parameter.rows, parameter.cols);
        let tensor = rig.bytes(dtype, rows, cols, &parameter.bytes)?;
        parameters.push((parameter.name, tensor));
    }
    let parameter = |name: &str| {
        let found = parameters.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, tensor)| *tensor)
            .ok_or_else(|| longwave_contract::CheckError {
                op: "network",
                operand: "parameter",
                expected: name.into(),
                found: "none".into(),
            })
    };
    let working = |rig: &mut Rig, rows: usize, widths: [u32; 3]| -> Result<[Option<Tensor>; 3]> {
        let mut tensors = [None; 3];
        for (tensor, width) in tensors.iter_mut().zip(widths) {
            if width > 0 {
                *tensor = Some(rig.f32(rows as u32, width, Values::Constant(60_000.0))?);
            }
        }
        Ok(tensors)
    };
    // Sinks fill a part of one page, the tail of another; of three blocks two are used, in any order.
    let pages = [Entry::new(Tier::Raw, 1), Entry::new(Tier::Raw, 0)];
    let blocks = [Entry::new(Tier::Latent, 2), Entry::new(Tier::Latent, 0)];
    let entries: Vec<Entry> = [pages, blocks].concat().into_iter().flatten().collect();
    let entries = rig.entries(&entries)?;
    let latents = rig.words(
        DType::U32,
        3,
        shape.words(),
        &vec![0; 3 * shape.words() as usize],
    )?;
    let descs: Vec<BlockDesc> = (0..BLOCKS as u32)
        .map(|index| BlockDesc {
            source: SINKS as u32 + index * BLOCK,
            index,
            sinks: SINKS as u32,
            blocks: 2,
            ..BlockDesc::default()
        })
        .collect();
    let words = BlockDesc::WORDS;
    let constant = Values::Constant(60_000.0);
    let encode = EncodeTensors {
        staged,
        blocks: rig.words(
            DType::U32,
            BLOCKS as u32,
            words,
            bytemuck::cast_slice(&descs),
        )?,
        count: rig.count(BLOCKS as u32)?,
        rows: rig.count(CODED as u32)?,
        entries,
        latents,
        residual: rig.f32(CODED as u32, cols, constant)?,
        z: rig.f32(CODED as u32, cols.max(shape.rank), constant)?,
        inner: working(rig, CODED, codec.inner().encode)?,
    };
    let pitch = 2 * cols as usize;
    let mut raw = vec![0u8; 2 * PAGE as usize * pitch];
    let (sinks, tail) = (&bytes[..SINKS * pitch], &bytes[(SINKS + CODED) * pitch..]);
    raw[PAGE as usize * pitch..][..sinks.len()].copy_from_slice(sinks);
    raw[..tail.len()].copy_from_slice(tail);
    let store = StoreDesc {
        sinks: SINKS as u32,
        compressed: CODED as u32,
        length: ALL as u32,
        pages: 0,
        blocks: 2,
        ..StoreDesc::default()
    };
    let restore = RestoreTensors {
        tokens: Tokens::All,
        stores: rig.words(
            DType::U32,
            1,
            StoreDesc::WORDS,
            bytemuck::cast_slice(&[store]),
        )?,
        entries,
        count: rig.count(ALL as u32)?,
        pitch: ALL as u32,
        first: 0,
        raw: rig.bytes(DType::F16, 2 * PAGE, cols, &raw)?,
        latents,
        out: rig.f32(ALL as u32, cols, constant)?,
        z: rig.f32(ALL as u32, shape.rank, constant)?,
        inner: working(rig, ALL, codec.inner().restore)?,
    };
    let mut recording = Recording::new("a codec");
    codec.encode(&mut recording, &encode, &parameter)?;
    codec.restore(&mut recording, &restore, &parameter)?;
    let backend = Arc::clone(rig.backend());
    let plan = backend.prepare(&recording)?;
    backend.wait(backend.run(plan)?)?;
    backend.release(plan);
    let out = rig.read(restore.out)?;
    let rows = out.chunks_exact(4 * cols as usize);
    Ok(rows.map(bytemuck::pod_collect_to_vec).collect())
}
