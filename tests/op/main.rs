//! Rung 1: does every op on every backend match the CPU reference?
//!
//! One file per op lists its cases; each case runs on the adapter with the kernels that it selects, and with every kind of kernel forced:
//! split, tile and warpgroup attention; without subgroups, row and tile matmuls; the row kernels, which have one for a single row, with subgroups and without. Cases with a large table, weight or cache run once more with it cut into small slabs.

mod activate;
mod attend;
mod attend_stored;
mod embed;
mod gate_up_silu;
mod linear;
mod linear_add;
mod norm_linear;
mod observe;
mod pack;
mod qkv_rope_append;
mod refer;
mod reside;
mod restore;
mod rope;
mod sample;
mod select;
mod unpack;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use longwave_contract::{Backend, DType, Op, Recording, Trace, first_divergence};
use longwave_cuda as cuda;
use longwave_tests::adapter::{self, Subject};
use longwave_tests::rig::Rig;
use longwave_tests::trial;
use longwave_wgpu::{AttendKernel, Force, MatmulKernel};

/// Makes an op's operands, and the op.
type Build = Box<dyn Fn(&mut Rig) -> Result<Op> + Send + Sync>;

/// One op with its operands, made anew on each backend.
struct Case {
    name: String,
    build: Build,
    /// What a backend has to read as it is stored, where the op is that.
    stored: Option<attend_stored::Stored>,
}

impl Case {
    fn new(
        name: impl Into<String>,
        build: impl Fn(&mut Rig) -> Result<Op> + Send + Sync + 'static,
    ) -> Self {
        Case {
            name: name.into(),
            build: Box::new(build),
            stored: None,
        }
    }

    /// The subject, where it serves the case.
    fn served(&self, subject: &Subject) -> Subject {
        match self.stored {
            Some(stored) => subject.clone().and_then(|subject| stored.served(subject)),
            None => subject.clone(),
        }
    }

    /// Runs the case on both backends and compares what it wrote.
    fn compare(&self, subject: &Arc<dyn Backend>) -> Result<()> {
        let reference = adapter::cpu();
        let (mut left, mut right) = (Rig::new(&reference, 7), Rig::new(subject, 7));
        let (left_op, right_op) = ((self.build)(&mut left)?, (self.build)(&mut right)?);
        let before: Vec<Vec<u8>> = written(&left_op)
            .map(|tensor| left.read(tensor))
            .collect::<Result<_>>()?;
        let (left_recording, right_recording) = (record(left_op)?, record(right_op)?);
        let divergence = first_divergence(
            Trace {
                backend: &*reference,
                recording: &left_recording,
            },
            Trace {
                backend: &**subject,
                recording: &right_recording,
            },
        )?;
        ensure!(
            !divergence.diverged,
            "out of tolerance: {:?}",
            divergence.agreements.last()
        );
        // Without references, nothing enters the blocks.
        let stays = |tensor| matches!(left_op, Op::Refer(op) if op.shape.references.is_none() && op.latents == tensor);
        for (tensor, before) in written(&left_op).zip(before) {
            if stays(tensor) {
                continue;
            }
            ensure!(
                left.read(tensor)? != before,
                "the op wrote nothing: the case tests nothing"
            );
        }
        Ok(())
    }
}

fn written(op: &Op) -> impl Iterator<Item = longwave_contract::Tensor> {
    op.operands()
        .into_iter()
        .filter(|operand| operand.access.writes())
        .map(|operand| operand.tensor)
}

fn record(op: Op) -> Result<Recording> {
    let mut recording = Recording::new("case");
    recording.push(op)?;
    Ok(recording)
}

/// Shapes at which every matmul kernel is tried: rows of input, of which `count` count, by output columns and inner columns.
const MATMULS: [(u32, u32, u32, u32); 12] = [
    (1, 1, 64, 64),
    (1, 1, 257, 576),
    (1, 1, 70, 4192),
    (2, 2, 96, 160),
    (5, 4, 100, 96),
    (8, 8, 257, 576),
    (11, 10, 700, 1216),
    (16, 16, 4100, 128),
    (17, 17, 64, 64),
    (20, 18, 700, 256),
    (70, 67, 130, 96),
    (128, 128, 192, 128),
];

/// Every weight type at every shape.
fn matmul_cases(
    build: impl Fn(&mut Rig, DType, (u32, u32, u32, u32)) -> Result<Op> + Copy + Send + Sync + 'static,
) -> Vec<Case> {
    let shapes = || {
        DType::WEIGHTS
            .into_iter()
            .flat_map(|dtype| MATMULS.map(|shape| (dtype, shape)))
    };
    shapes()
        .map(|(dtype, shape)| {
            let (rows, count, n, k) = shape;
            Case::new(
                format!("{dtype} {count} of {rows} rows, {n} x {k}"),
                move |rig| build(rig, dtype, shape),
            )
        })
        .collect()
}

/// The adapter as it is, and with each kind of kernel forced.
fn subjects() -> Vec<(&'static str, Subject)> {
    let forced = |force: Force| adapter::wgpu_with(|options| options.force = force);
    let cuda_attention = |kernel| adapter::cuda_with(|options| options.force.attend = Some(kernel));
    let cuda_matmul = |kernel| adapter::cuda_with(|options| options.force.matmul = Some(kernel));
    vec![
        ("cuda", adapter::cuda()),
        (
            "cuda split attention",
            cuda_attention(cuda::AttendKernel::Split),
        ),
        (
            "cuda tile attention",
            cuda_attention(cuda::AttendKernel::Tile),
        ),
        (
            "cuda warpgroup attention",
            cuda_attention(cuda::AttendKernel::Warpgroup),
        ),
        ("cuda row matmul", cuda_matmul(cuda::MatmulKernel::Row)),
        ("cuda tile matmul", cuda_matmul(cuda::MatmulKernel::Tile)),
        ("cuda few matmul", cuda_matmul(cuda::MatmulKernel::Few)),
        ("wgpu", adapter::wgpu()),
        (
            "wgpu without subgroups",
            forced(Force {
                no_subgroup: true,
                ..Force::default()
            }),
        ),
        (
            "wgpu head attention",
            forced(Force {
                attend: Some(AttendKernel::Head),
                no_cooperative: true,
                ..Force::default()
            }),
        ),
        (
            "wgpu row attention",
            forced(Force {
                attend: Some(AttendKernel::Row),
                no_cooperative: true,
                ..Force::default()
            }),
        ),
        (
            "wgpu split attention",
            forced(Force {
                attend: Some(AttendKernel::Split),
                no_cooperative: true,
                ..Force::default()
            }),
        ),
        (
            "wgpu tile attention",
            forced(Force {
                attend: Some(AttendKernel::Tile),
                no_cooperative: true,
                ..Force::default()
            }),
        ),
        (
            "wgpu row matmul",
            forced(Force {
                matmul: Some(MatmulKernel::Row),
                no_cooperative: true,
                ..Force::default()
            }),
        ),
        (
            "wgpu row matmul without subgroups",
            forced(Force {
                matmul: Some(MatmulKernel::Row),
                no_subgroup: true,
                ..Force::default()
            }),
        ),
        (
            "wgpu tile matmul",
            forced(Force {
                matmul: Some(MatmulKernel::Tile),
                no_cooperative: true,
                ..Force::default()
            }),
        ),
    ]
}

/// The size at which buffers are cut so that a case's table, weights or cache lie in several slabs, while everything else still fits into
/// one, as it must. `None` where none of them is large enough.
fn slab_limit(op: &Op) -> Option<u64> {
    // Ops that make latent blocks take the staged rows whole.
    let is_staged = |name: &str| name == "staged" && matches!(op, Op::QkvRopeAppend(_));
    let is_cut = |name: &str| {
        matches!(name, "table" | "weight" | "kv") || name.starts_with("w_") || is_staged(name)
    };
    let largest = |cut: bool| {
        let operands = op.operands().into_iter();
        let some = operands.filter(|operand| is_cut(operand.name) == cut);
        some.map(|operand| operand.tensor.bytes())
            .max()
            .unwrap_or(0)
    };
    // Kernels' working memory is no larger than the operands, but that attention keeps a sum for each split of 256 tokens or more, and
    // observers logits for a block of four heads at least, and two records for 128 of them; and what is restored lies there as f32.
    let working = match op {
        Op::Attend(op) => largest(false) * u64::from(op.longest.div_ceil(256)).max(1),
        Op::Observe(op) => {
            let capacity = op.scores.cols;
            u64::from(op.scores.rows) * u64::from(capacity + 2 * capacity.div_ceil(128)) * 16
        }
        Op::Restore(op) => u64::from(op.rows) * u64::from(op.latent.cols.max(op.latent.rank)) * 4,
        _ => 0,
    };
    let limit = largest(false).max(working).next_power_of_two().max(4096);
    (largest(true) > limit).then_some(limit)
}

/// A trial for each case whose table, weights or cache can be cut.
fn slab_trials(op: &'static str, cases: Vec<Case>) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for case in cases {
        let built = (case.build)(&mut Rig::new(&adapter::cpu(), 7))?;
        let Some(limit) = slab_limit(&built) else {
            continue;
        };
        let name = format!(
            "{op}: {} on wgpu in slabs of {} KiB",
            case.name,
            limit >> 10
        );
        let subject = adapter::wgpu().map(|_| ());
        trials.push(trial::with(name, subject, move |()| {
            let subject = adapter::wgpu_with(|options| options.slab_limit = Some(limit));
            case.compare(&subject.map_err(anyhow::Error::msg)?)
        }));
    }
    // These read nothing that is cut.
    let whole = matches!(
        op,
        "attend_stored" | "select" | "reside" | "refer" | "activate" | "pack" | "unpack" | "sample"
    );
    let least = if whole { 0 } else { 3 };
    ensure!(trials.len() >= least, "{op} has too few cases that are cut");
    Ok(trials)
}

/// All cases of all ops.
fn suites() -> [(&'static str, Vec<Case>); 18] {
    [
        ("embed", embed::cases()),
        ("qkv_rope_append", qkv_rope_append::cases()),
        ("attend", attend::cases()),
        ("attend_stored", attend_stored::cases()),
        ("observe", observe::cases()),
        ("select", select::cases()),
        ("reside", reside::cases()),
        ("refer", refer::cases()),
        ("linear", linear::cases()),
        ("activate", activate::cases()),
        ("pack", pack::cases()),
        ("unpack", unpack::cases()),
        ("rope", rope::cases()),
        ("restore", restore::cases()),
        ("linear_add", linear_add::cases()),
        ("gate_up_silu", gate_up_silu::cases()),
        ("norm_linear", norm_linear::cases()),
        ("sample", sample::cases()),
    ]
}

fn main() -> ExitCode {
    assert_eq!(
        suites().each_ref().map(|(name, _)| *name),
        Op::NAMES,
        "every op has its cases"
    );
    let mut trials = Vec::new();
    for (subject_name, subject) in subjects() {
        for (op, cases) in suites() {
            for case in cases {
                let name = format!("{op}: {} on {subject_name}", case.name);
                trials.push(trial::with(name, case.served(&subject), move |subject| {
                    case.compare(&subject)
                }));
            }
        }
        let name = format!("attend_stored: what restoring gives on {subject_name}");
        let stored = subject.clone().and_then(|subject| {
            let plain = attend_stored::Stored {
                head_dim: 64,
                norm: false,
            };
            plain.served(subject)
        });
        trials.push(trial::with(name, stored, |subject| {
            attend_stored::restored_gives_the_same(&subject)
        }));
        let name = format!("select: everything selected is dense on {subject_name}");
        trials.push(trial::with(name, subject.clone(), |subject| {
            select::everything_selected_is_dense(&subject)
        }));
        let name = format!("activate: it is what it says on {subject_name}");
        trials.push(trial::with(name, subject.clone(), |subject| {
            activate::is_what_it_says(&subject)
        }));
        let name = format!("sample: it is what it says on {subject_name}");
        trials.push(trial::with(name, subject.clone(), |subject| {
            sample::is_what_it_says(&subject)
        }));
        let name = format!("attend: permuted pages are bit-equal on {subject_name}");
        trials.push(trial::with(name, subject.clone(), |subject| {
            attend::permuted_pages_are_bit_equal(&subject)
        }));
    }
    let name = "attend_stored: what restoring gives on cpu";
    trials.push(trial::with(name, Ok(adapter::cpu()), |subject| {
        attend_stored::restored_gives_the_same(&subject)
    }));
    let name = "select: everything selected is dense on cpu";
    trials.push(trial::with(name, Ok(adapter::cpu()), |subject| {
        select::everything_selected_is_dense(&subject)
    }));
    let name = "activate: it is what it says on cpu";
    trials.push(trial::with(name, Ok(adapter::cpu()), |subject| {
        activate::is_what_it_says(&subject)
    }));
    let name = "sample: it is what it says on cpu";
    trials.push(trial::with(name, Ok(adapter::cpu()), |subject| {
        sample::is_what_it_says(&subject)
    }));
    for (op, cases) in suites() {
        match slab_trials(op, cases) {
            Ok(more) => trials.extend(more),
            Err(error) => trials.push(Trial::test(format!("{op}: in slabs"), move || {
                Err(format!("{error:?}").into())
            })),
        }
    }
    let name = "attend: permuted pages are bit-equal on cpu";
    trials.push(trial::with(name, Ok(adapter::cpu()), |subject| {
        attend::permuted_pages_are_bit_equal(&subject)
    }));
    trial::run(trials)
}
