//! Which kernels serve an op, with which numbers and grids.
//!
//! One file per op, and beside them files that several ops use. What comes out is a list of [`Dispatch`]es: names and numbers, no driver.
//! The choice follows from shapes and the device's facts in [`Context`] alone, so that it is tested without a device.
//!
//! An operand that is absent (a bias, a head norm) is passed as a null address.

mod activate;
mod attend;
mod attend_split;
mod attend_stored;
mod attend_tile;
mod attend_warpgroup;
mod embed;
mod few_rows;
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

use longwave_contract::{BackendError, Op, Tensor};
use longwave_cuda_kernels::{Kernel, Kind};

use crate::BACKEND;
use crate::fault::internal;
use crate::product::ProductShape;

pub(crate) use attend_stored::heads as stored_heads;

/// One launch.
#[derive(Clone, Debug)]
pub(crate) enum Launch {
    /// Of a kernel.
    Kernel(Dispatch),
    /// Of cuBLASLt.
    Product {
        /// What is multiplied.
        shape: ProductShape,
        /// Input, weights and output.
        matrices: [Argument; 3],
    },
}

impl From<Dispatch> for Launch {
    fn from(dispatch: Dispatch) -> Self {
        Launch::Kernel(dispatch)
    }
}

/// One launch of one kernel.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// The value of each of its macros, in the kernel's order.
    pub variant: Vec<&'static str>,
    /// What it is passed, in the kernel's order.
    pub arguments: Vec<Argument>,
    /// Blocks along each axis.
    pub grid: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Whether it had better run beside what comes before it in order, as far as that neither writes what it reads nor touches what it writes.
    pub beside: bool,
}

/// What a kernel is passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Argument {
    /// The address of a tensor's first row.
    Tensor(Tensor),
    /// The same, of a tensor of which the launch reads only what was there before the recording began.
    Settled(Tensor),
    /// An operand that is absent: the null address.
    Absent,
    /// The address of the working memory `index`, of which the first `bytes` are used. What one op leaves there the next may overwrite.
    Scratch {
        /// Number of the buffer within the op.
        index: usize,
        /// Bytes that the dispatch uses.
        bytes: u64,
    },
    /// A number.
    U32(u32),
    /// A number.
    F32(f32),
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Argument::U32(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Argument::F32(value)
    }
}

impl From<Tensor> for Argument {
    fn from(tensor: Tensor) -> Self {
        Argument::Tensor(tensor)
    }
}

impl From<Option<Tensor>> for Argument {
    fn from(tensor: Option<Tensor>) -> Self {
        tensor.map_or(Argument::Absent, Argument::Tensor)
    }
}

/// Which kernel a matrix product takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulKernel {
    /// One pass over the weights for up to eight rows.
    Row,
    /// One pass over the weights for up to sixteen rows, multiplied by tensor cores; `Tile` for more.
    Few,
    /// Tiles of rows and outputs, multiplied by tensor cores.
    Tile,
    /// cuBLASLt, for f16 weights.
    Library,
}

/// Which kernel attention takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttendKernel {
    /// A row and a key head at a time, each by one block.
    Head,
    /// A row and a key head at a time, each by several blocks that share its view.
    Split,
    /// Up to 128 queries at a time, which share the reads of a view.
    Tile,
    /// As `Tile`, by warpgroups; `Tile` where they cannot.
    Warpgroup,
}

/// Variants that a test asks for; what is left out is chosen from shapes and capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Force {
    /// The kernel of every matrix product.
    pub matmul: Option<MatmulKernel>,
    /// The kernel of every attention that it can serve.
    pub attend: Option<AttendKernel>,
}

/// What the choice of kernels depends on besides the op.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// Its compute capability, times ten.
    pub capability: u32,
    /// Its multiprocessors.
    pub processors: u32,
    /// Bytes of shared memory that a block may have.
    pub shared_memory: u32,
    /// Whether cuBLASLt is there.
    pub products: bool,
    /// What tests ask for.
    pub force: Force,
}

/// The launches that serve each op, in order. A result that the next op multiplies as f16 is handed on so where that saves a conversion.
///
/// # Errors
/// [`BackendError::Unsupported`] when no kernel serves these shapes on this device.
pub(crate) fn launch_all(ops: &[Op], context: &Context) -> Result<Vec<Vec<Launch>>, BackendError> {
    let mut given = None;
    let ops = ops.iter().enumerate().map(|(index, op)| {
        let taken = given.take();
        if let Op::GateUpSilu(op) = op {
            given = gate_up_silu::handed(op, ops.get(index + 1), context);
            return gate_up_silu::launch(op, given, context);
        }
        match op {
            Op::LinearAdd(op) => linear_add::launch(op, taken, context),
            _ => launch(op, context),
        }
    });
    ops.collect()
}

/// The launches that serve an op, in order.
fn launch(op: &Op, context: &Context) -> Result<Vec<Launch>, BackendError> {
    let kernels = match op {
        Op::Attend(op) => attend::launch(op, context),
        Op::AttendStored(op) => attend_stored::launch(op, context),
        Op::Embed(op) => embed::launch(op, context),
        Op::Refer(op) => refer::launch(op, context),
        Op::Pack(op) => pack::launch(op, context),
        Op::Unpack(op) => unpack::launch(op, context),
        Op::Rope(op) => rope::launch(op, context),
        Op::Restore(op) => return restore::launch(op, context),
        Op::Activate(op) => activate::launch(op, context),
        Op::Observe(op) => observe::launch(op, context),
        Op::Reside(op) => reside::launch(op, context),
        Op::Sample(op) => sample::launch(op, context),
        Op::Select(op) => select::launch(op, context),
        Op::QkvRopeAppend(op) => return qkv_rope_append::launch(op, context),
        Op::Linear(op) => return linear::launch(op, context),
        Op::LinearAdd(op) => return linear_add::launch(op, None, context),
        Op::GateUpSilu(op) => return gate_up_silu::launch(op, None, context),
        Op::NormLinear(op) => return norm_linear::launch(op, context),
    }?;
    Ok(kernels.into_iter().map(Launch::from).collect())
}

fn unsupported(op: &'static str, why: impl Into<String>) -> BackendError {
    BackendError::Unsupported {
        op,
        backend: BACKEND,
        why: why.into(),
    }
}

/// A launch of the kernel `name` on `grid`, with the values of its macros and what it is passed, each by name: every one must be given, and none
/// that does not exist.
///
/// # Errors
/// [`BackendError::Internal`] otherwise: a defect of the op's file.
fn dispatch(
    name: &str,
    variant: &[(&str, &str)],
    arguments: &[(&str, Argument)],
    grid: [u32; 3],
) -> Result<Dispatch, BackendError> {
    let fail = |why: String| internal(format!("{name}: {why}"));
    let kernel = longwave_cuda_kernels::kernel(name)
        .ok_or_else(|| fail("there is no such kernel".into()))?;
    let known = |given: &str| kernel.variants.iter().any(|variant| variant.name == given);
    if let Some((other, _)) = variant.iter().find(|(given, _)| !known(given)) {
        return Err(fail(format!("there is no macro `{other}`")));
    }
    let known = |given: &str| kernel.params.iter().any(|param| param.name == given);
    if let Some((other, _)) = arguments.iter().find(|(given, _)| !known(given)) {
        return Err(fail(format!("there is no parameter `{other}`")));
    }
    let value = |of: &longwave_cuda_kernels::Variant| {
        let given = variant.iter().find(|(given, _)| *given == of.name);
        let (_, value) = given.ok_or_else(|| fail(format!("no value of {}", of.name)))?;
        let known = of.values.iter().find(|known| *known == value);
        let unknown = || fail(format!("{} cannot be {value}", of.name));
        known.copied().ok_or_else(unknown)
    };
    let argument = |param: &longwave_cuda_kernels::Param| {
        let given = arguments.iter().find(|(given, _)| *given == param.name);
        let (_, argument) = given.ok_or_else(|| fail(format!("no `{}`", param.name)))?;
        let fits = match argument {
            Argument::U32(_) => param.kind == Kind::U32,
            Argument::F32(_) => param.kind == Kind::F32,
            _ => matches!(param.kind, Kind::Pointer { .. }),
        };
        let unfit = || fail(format!("`{}` has another type", param.name));
        fits.then_some(*argument).ok_or_else(unfit)
    };
    Ok(Dispatch {
        kernel,
        variant: kernel
            .variants
            .iter()
            .map(value)
            .collect::<Result<_, _>>()?,
        arguments: kernel
            .params
            .iter()
            .map(argument)
            .collect::<Result<_, _>>()?,
        grid,
        shared: 0,
        beside: false,
    })
}

/// Threads of a warp.
const WARP: u32 = 32;

/// Threads of a kernel's blocks, as its source has them; of one that does not exist, which [`dispatch`] refuses, one.
fn threads(name: &str) -> u32 {
    longwave_cuda_kernels::kernel(name).map_or(1, |kernel| kernel.threads)
}

/// The value of the macro WEIGHT for weights of a tensor's type.
fn weight(tensor: Tensor) -> &'static str {
    use longwave_contract::DType;
    match tensor.dtype {
        DType::Q4 => "Q4",
        DType::Q8G32 => "Q8G32",
        DType::Q8G16 => "Q8G16",
        DType::Q8G32M => "Q8G32M",
        // Checks of ops let no other type be a weight.
        DType::F16 | DType::F32 | DType::U32 => "F16",
    }
}
