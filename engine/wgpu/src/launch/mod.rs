//! Which kernels serve an op, with which numbers and grids.
//!
//! One file per op, and beside them `latent`, `matmul`, `one_row` and `rms_norm`, which several ops use. In each, a `select` function chooses from shapes and
//! [`Caps`] alone, so that the choice is tested without a device. What comes out is a list of [`Dispatch`]es: names and numbers, no wgpu.
//!
//! An operand that is absent (a bias, a head norm) is bound to the op's `count` tensor, which every op has and which is only read; the
//! kernel's parameters say that it is absent, and it is not read as that operand.

mod activate;
mod attend;
mod attend_head;
mod attend_row;
mod attend_stored;
mod embed;
mod gate_up_silu;
mod latent;
mod linear;
mod linear_add;
mod matmul;
mod norm_linear;
mod observe;
mod one_row;
mod pack;
mod qkv_rope_append;
mod refer;
mod reside;
mod restore;
mod rms_norm;
mod rope;
mod sample;
mod select;
mod unpack;

use longwave_contract::{BackendError, Caps, CooperativeMatrix, Op, Slabs, Tensor};
use longwave_shaders::Kernel;

pub(crate) use attend_stored::heads as stored_heads;

/// The name of the backend in errors.
const BACKEND: &str = "wgpu";

/// One dispatch of one kernel.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Numbers for the pipeline.
    pub overrides: Vec<(&'static str, f64)>,
    /// Words of the kernel's `Params`.
    pub params: Vec<u32>,
    /// What is bound to each storage binding, by the binding's name.
    pub bindings: Vec<(&'static str, Bound)>,
    /// Workgroups along each axis.
    pub grid: [u32; 3],
    /// Estimated multiply-adds, to bound submissions.
    pub work: u64,
}

/// What a binding takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// A whole tensor, which lies in one device buffer.
    Tensor(Tensor),
    /// Slab `index` of a tensor whose buffer was cut.
    Slab(Tensor, usize),
    /// The scratch buffer `index`, which all plans share, of which the first `bytes` are used.
    Scratch {
        /// Number of the buffer within the op.
        index: usize,
        /// Bytes that the dispatch uses.
        bytes: u64,
    },
}

/// Which kernel a matrix product takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulKernel {
    /// One pass over the weights for up to eight rows.
    Row,
    /// Tiles of 64 rows and 64 outputs.
    Tile,
    /// Tiles of 16 or 32 rows, multiplied by matrix units, whose columns subgroups share.
    Few,
    /// Tiles of 128 or 64 rows and outputs, multiplied by matrix units.
    Cooperative,
}

/// Which kernel attention takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttendKernel {
    /// A head of a row at a time, in one dispatch, where there are few rows.
    Head,
    /// A row at a time, by groups of threads without barriers, where there are few rows.
    Row,
    /// A row at a time.
    Split,
    /// Four rows at a time where their heads fit, which share the reads of a view.
    Tile,
    /// 64 queries at a time, multiplied by matrix units.
    Cooperative,
}

/// Variants that a test asks for; what is left out is chosen from shapes and capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Force {
    /// Use no subgroup operations even where the device has them, and no matrix units.
    pub no_subgroup: bool,
    /// Use no matrix units even where the device has them, so that products take their inputs as they are.
    pub no_cooperative: bool,
    /// The kernel of every matrix product that it can serve.
    pub matmul: Option<MatmulKernel>,
    /// The kernel of every attention.
    pub attend: Option<AttendKernel>,
}

/// What the choice of kernels depends on besides the op.
pub(crate) struct Context<'a> {
    /// What the device can do.
    pub caps: &'a Caps,
    /// What tests ask for.
    pub force: Force,
    /// How a tensor's buffer was cut.
    pub slabs: &'a dyn Fn(Tensor) -> Slabs,
}

/// The dispatches that serve an op, in order.
///
/// # Errors
/// [`BackendError::Unsupported`] when no kernel serves these shapes on this device.
pub(crate) fn launch(op: &Op, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    match op {
        Op::Embed(op) => embed::launch(op, context),
        Op::QkvRopeAppend(op) => qkv_rope_append::launch(op, context),
        Op::Attend(op) => attend::launch(op, context),
        Op::AttendStored(op) => attend_stored::launch(op, context),
        Op::Observe(op) => observe::launch(op, context),
        Op::Select(op) => select::launch(op, context),
        Op::Reside(op) => reside::launch(op, context),
        Op::Refer(op) => refer::launch(op, context),
        Op::Linear(op) => linear::launch(op, context),
        Op::Activate(op) => activate::launch(op, context),
        Op::Pack(op) => pack::launch(op, context),
        Op::Unpack(op) => unpack::launch(op, context),
        Op::Rope(op) => rope::launch(op, context),
        Op::Restore(op) => restore::launch(op, context),
        Op::LinearAdd(op) => linear_add::launch(op, context),
        Op::GateUpSilu(op) => gate_up_silu::launch(op, context),
        Op::NormLinear(op) => norm_linear::launch(op, context),
        Op::Sample(op) => sample::launch(op, context),
    }
}

/// Workgroup memory that kernels for matrix units take at most.
const COOPERATIVE_MEMORY: u32 = 48 << 10;

/// Whether kernels for matrix units run on a device: they multiply 16 by 16 numbers of f16 into f32, by subgroups of exactly 32 threads.
pub(crate) fn cooperative(caps: &Caps, force: Force) -> bool {
    let usable = CooperativeMatrix {
        m: 16,
        n: 16,
        k: 16,
        f32_accumulator: true,
    };
    !force.no_subgroup
        && !force.no_cooperative
        && caps.f16
        && caps.subgroup == Some((32, 32))
        && caps.workgroup_memory >= COOPERATIVE_MEMORY
        && caps.cooperative_matrix.contains(&usable)
}

impl Context<'_> {
    /// Whether kernels for matrix units may be chosen.
    fn cooperative(&self) -> bool {
        cooperative(self.caps, self.force)
    }

    /// The variant of the reductions that the device and the test allow.
    fn reduce(&self) -> &'static str {
        match self.caps.subgroup {
            Some(_) if !self.force.no_subgroup => "reduce_subgroup",
            _ => "reduce_workgroup",
        }
    }

    /// The variant of kernels whose threads work in teams, and how many teams a workgroup of `threads` has at most: subgroups where the
    /// device and the test allow, and else one.
    fn team(&self, threads: u32) -> (&'static str, u32) {
        match self.caps.subgroup {
            Some((least, _)) if !self.force.no_subgroup => {
                ("team_subgroup", (threads / least.max(1)).max(1))
            }
            _ => ("team_workgroup", 1),
        }
    }

    /// Binds a tensor that kernels only take whole: it may be part of a buffer that was cut, where it lies in one slab.
    fn whole(
        &self,
        op: &'static str,
        operand: &'static str,
        tensor: Tensor,
    ) -> Result<Bound, BackendError> {
        let slabs = (self.slabs)(tensor);
        if slabs.pieces(tensor.offset, tensor.bytes()).nth(1).is_some() {
            let why = format!(
                "`{operand}` ({tensor}) exceeds one binding of {} bytes",
                self.caps.slab_limit
            );
            return Err(unsupported(op, why));
        }
        Ok(Bound::Tensor(tensor))
    }

    /// The first `bytes` of the op's scratch buffer `index`.
    fn scratch(&self, op: &'static str, index: usize, bytes: u64) -> Result<Bound, BackendError> {
        let limit = self.caps.slab_limit;
        if bytes > limit {
            let why =
                format!("{bytes} bytes of working memory exceed one binding of {limit} bytes");
            return Err(unsupported(op, why));
        }
        Ok(Bound::Scratch { index, bytes })
    }

    /// The slabs of a tensor whose rows kernels take in windows.
    fn windows(&self, tensor: Tensor) -> Vec<Window> {
        let slabs = (self.slabs)(tensor);
        if slabs.count() == 1 {
            return vec![Window {
                bound: Bound::Tensor(tensor),
                first: 0,
                rows: tensor.rows,
            }];
        }
        let per_slab = slabs.slab_bytes() / tensor.row_bytes().max(1);
        (0..slabs.count())
            .map(|index| {
                let first = (index as u64 * per_slab).min(u64::from(tensor.rows));
                Window {
                    bound: Bound::Slab(tensor, index),
                    first: first as u32,
                    rows: (u64::from(tensor.rows) - first).min(per_slab) as u32,
                }
            })
            .filter(|window| window.rows > 0)
            .collect()
    }

    /// A grid of `blocks` workgroups, on two axes where one does not hold them; kernels compute `y * x_groups + x`.
    fn grid(&self, op: &'static str, blocks: u64) -> Result<[u32; 3], BackendError> {
        let limit = u64::from(self.caps.workgroups_per_axis.max(1));
        let x = blocks.clamp(1, limit);
        let y = blocks.div_ceil(x).max(1);
        if y > limit {
            return Err(unsupported(
                op,
                format!("{blocks} workgroups in a dispatch"),
            ));
        }
        Ok([x as u32, y as u32, 1])
    }
}

/// Rows of a tensor that one dispatch sees.
struct Window {
    bound: Bound,
    first: u32,
    rows: u32,
}

fn unsupported(op: &'static str, why: impl Into<String>) -> BackendError {
    BackendError::Unsupported {
        op,
        backend: BACKEND,
        why: why.into(),
    }
}

/// The kernel of a stem and its variants.
fn kernel(stem: &str, variants: &[&str]) -> Result<&'static Kernel, BackendError> {
    let name = match variants {
        [] => stem.to_string(),
        _ => format!("{stem}[{}]", variants.join(",")),
    };
    longwave_shaders::kernel(&name).ok_or_else(|| BackendError::Internal {
        backend: BACKEND,
        why: format!("there is no kernel {name}"),
    })
}

/// A parameter's value.
#[derive(Clone, Copy, Debug)]
enum Word {
    U32(u32),
    F32(f32),
}

impl From<u32> for Word {
    fn from(value: u32) -> Self {
        Word::U32(value)
    }
}

impl From<f32> for Word {
    fn from(value: f32) -> Self {
        Word::F32(value)
    }
}

/// The words of a kernel's parameters from their values by name: every parameter must be given, and none that does not exist.
fn params(kernel: &Kernel, values: &[(&str, Word)]) -> Result<Vec<u32>, BackendError> {
    let fail = |why: String| BackendError::Internal {
        backend: BACKEND,
        why: format!("{}: {why}", kernel.name),
    };
    if let Some((name, _)) = values
        .iter()
        .find(|(name, _)| !kernel.params.iter().any(|param| param.name == *name))
    {
        return Err(fail(format!("there is no parameter `{name}`")));
    }
    let word = |param: &longwave_shaders::Param| {
        let value = values.iter().find(|(name, _)| *name == param.name);
        match (value, param.float) {
            (Some((_, Word::U32(value))), false) => Ok(*value),
            (Some((_, Word::F32(value))), true) => Ok(value.to_bits()),
            (Some(_), _) => Err(fail(format!("parameter `{}` has another type", param.name))),
            (None, _) => Err(fail(format!("parameter `{}` is missing", param.name))),
        }
    };
    kernel.params.iter().map(word).collect()
}
