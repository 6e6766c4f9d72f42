//! The closed list of ops.
//!
//! An op is a formula over named operands, a plain struct. It says once what it reads and writes ([`Op::operands`]), which shapes fit
//! ([`Op::check`]), and how far two backends may differ ([`Op::tolerance`]). An op is not a kernel: a backend may serve one op with any
//! of several kernels, or with several kernels in turn.
//!
//! In the shapes below, `n` is the recording's row capacity; how many rows count is read from `count`, a `u32[1, 1]` in device memory.
//! Rows from `count` on are left as they are.

mod activate;
mod attend;
mod attend_stored;
mod choose;
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

pub use activate::{Activate, Activation};
pub use attend::Attend;
pub use attend_stored::AttendStored;
pub use choose::choose_token;
pub use embed::Embed;
pub use gate_up_silu::GateUpSilu;
pub use linear::Linear;
pub use linear_add::LinearAdd;
pub use norm_linear::NormLinear;
pub use observe::Observe;
pub use pack::Pack;
pub use qkv_rope_append::{QkvRopeAppend, ROPE_LOW};
pub use refer::Refer;
pub use reside::{NO_TOKEN, RESIDENT_HEAD, Reside};
pub use restore::Restore;
pub use rope::Rope;
pub use sample::{LARGEST_LOGIT, NO_CHOICE, POWER, Sample, SampleDesc};
pub use select::{Select, Selected, planted};
pub use unpack::{Tokens, Unpack};

use crate::caps::Caps;
use crate::check::CheckError;
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// Whether an op reads an operand, writes it, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Only written: what was there before does not matter where a row counts.
    Write,
    /// Read and written.
    ReadWrite,
}

impl Access {
    /// Whether the op changes the operand.
    pub const fn writes(self) -> bool {
        !matches!(self, Access::Read)
    }
}

/// One operand of an op, for checks, tracing, bind order and counting bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The field's name.
    pub name: &'static str,
    /// The tensor.
    pub tensor: Tensor,
    /// What the op does with it.
    pub access: Access,
}

impl Operand {
    const fn read(name: &'static str, tensor: Tensor) -> Self {
        Operand {
            name,
            tensor,
            access: Access::Read,
        }
    }

    const fn write(name: &'static str, tensor: Tensor) -> Self {
        Operand {
            name,
            tensor,
            access: Access::Write,
        }
    }

    const fn read_write(name: &'static str, tensor: Tensor) -> Self {
        Operand {
            name,
            tensor,
            access: Access::ReadWrite,
        }
    }
}

/// Declares the enum of all ops and passes its methods on, so that a new op is one line here and an error wherever it is not handled.
macro_rules! ops {
    ($($variant:ident),* $(,)?) => {
        /// Any op.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Op {
            $(
                #[doc = concat!("See [`", stringify!($variant), "`].")]
                $variant($variant),
            )*
        }

        $(impl From<$variant> for Op {
            fn from(op: $variant) -> Op {
                Op::$variant(op)
            }
        })*

        impl Op {
            /// The names of all ops, which are the stems of their files everywhere.
            pub const NAMES: &'static [&'static str] = &[$($variant::NAME),*];

            /// The op's name.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Op::$variant(_) => $variant::NAME,)*
                }
            }

            /// What the op reads and writes, in the order of its fields; absent operands are left out.
            pub fn operands(&self) -> Vec<Operand> {
                match self {
                    $(Op::$variant(op) => op.operands(),)*
                }
            }

            /// Whether the operands' types and shapes fit together.
            ///
            /// # Errors
            /// The first operand that does not fit, with what was expected.
            pub fn check(&self) -> Result<(), CheckError> {
                match self {
                    $(Op::$variant(op) => op.check(),)*
                }
            }

            /// How far the result of a backend that sums in f32 may be from the reference's.
            const fn full_tolerance(&self) -> Tolerance {
                match self {
                    $(Op::$variant(_) => $variant::TOLERANCE,)*
                }
            }
        }
    };
}

ops!(
    Embed,
    QkvRopeAppend,
    Attend,
    AttendStored,
    Observe,
    Select,
    Reside,
    Refer,
    Linear,
    Activate,
    Pack,
    Unpack,
    Rope,
    Restore,
    LinearAdd,
    GateUpSilu,
    NormLinear,
    Sample
);

impl Op {
    /// How far a backend's result may be from the reference's. Where its products round their inputs to f16 ([`Caps::half_products`]), each
    /// input is off by up to 2^-11 of itself; errors of many terms cancel in part, and the largest output of a row is several times the
    /// typical one, so that about 2^-12 of it is seen, and four times that is allowed.
    pub const fn tolerance(&self, caps: &Caps) -> Tolerance {
        let mut tolerance = self.full_tolerance();
        if caps.half_products {
            tolerance.relative += match self {
                Op::Linear(_)
                | Op::LinearAdd(_)
                | Op::NormLinear(_)
                | Op::QkvRopeAppend(_)
                | Op::Restore(_) => HALF,
                // The product of two such sums; scores and weights of attention.
                Op::GateUpSilu(_) | Op::Attend(_) | Op::AttendStored(_) => 2.0 * HALF,
                _ => 0.0,
            };
        }
        tolerance
    }
}

/// What rounding the inputs of a product to f16 adds to its tolerance.
const HALF: f32 = 1.0 / 1024.0;

/// Sums of products in f32 against the reference's f64: a few hundred roundings of 2^-24 each, in any order.
const MATMUL_TOLERANCE: Tolerance = Tolerance {
    absolute: 1e-6,
    relative: 3e-5,
};
