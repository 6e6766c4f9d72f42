//! The ops: the least that each must do, and cases to measure it with at the shapes of a model. One file per op.

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
mod shapes;
mod unpack;

use anyhow::Result;
use longwave_contract::Op;
use longwave_tests::rig::Rig;

pub use self::shapes::Shapes;
use self::shapes::{Held, entries_of_blocks, new_blocks};
use crate::work::{Tables, Work};

/// Makes an op's operands, and the op.
type Build = Box<dyn Fn(&mut Rig) -> Result<Op>>;

/// One op at one shape, made anew on each backend.
pub struct Case {
    /// The op and its shape.
    pub name: String,
    build: Build,
    /// What is compared with the reference instead of the op itself.
    smaller: Option<Build>,
}

impl Case {
    /// A case that makes its op with `build`.
    pub fn new<O: Into<Op>>(name: String, build: impl Fn(&mut Rig) -> Result<O> + 'static) -> Self {
        Case {
            name,
            build: Box::new(move |rig| Ok(build(rig)?.into())),
            smaller: None,
        }
    }

    /// The case, of which a smaller op is compared with the reference, by the same kernels: for ops that choose by numbers that backends round
    /// differently, since of very many random choices some are ties.
    #[must_use]
    pub fn compared_by<O: Into<Op>>(
        self,
        smaller: impl Fn(&mut Rig) -> Result<O> + 'static,
    ) -> Self {
        Case {
            smaller: Some(Box::new(move |rig| Ok(smaller(rig)?.into()))),
            ..self
        }
    }

    /// Makes it. Two rigs of the same seed hold the same values.
    ///
    /// # Errors
    /// There is no room, or the device fails.
    pub fn build(&self, rig: &mut Rig) -> Result<Op> {
        (self.build)(rig)
    }

    /// Makes what is compared with the reference.
    ///
    /// # Errors
    /// As [`Case::build`].
    pub fn build_compared(&self, rig: &mut Rig) -> Result<Op> {
        self.smaller.as_ref().unwrap_or(&self.build)(rig)
    }
}

/// The cases of each op, by its name.
pub fn suites(shapes: &Shapes) -> Vec<(&'static str, Vec<Case>)> {
    use longwave_contract::op as ops;
    vec![
        (ops::Embed::NAME, embed::cases(shapes)),
        (ops::QkvRopeAppend::NAME, qkv_rope_append::cases(shapes)),
        (ops::Attend::NAME, attend::cases(shapes)),
        (ops::AttendStored::NAME, attend_stored::cases(shapes)),
        (ops::Observe::NAME, observe::cases(shapes)),
        (ops::Select::NAME, select::cases(shapes)),
        (ops::Reside::NAME, reside::cases(shapes)),
        (ops::Refer::NAME, refer::cases(shapes)),
        (ops::Linear::NAME, linear::cases(shapes)),
        (ops::Activate::NAME, activate::cases(shapes)),
        (ops::Pack::NAME, pack::cases(shapes)),
        (ops::Unpack::NAME, unpack::cases(shapes)),
        (ops::Rope::NAME, rope::cases(shapes)),
        (ops::Restore::NAME, restore::cases(shapes)),
        (ops::LinearAdd::NAME, linear_add::cases(shapes)),
        (ops::GateUpSilu::NAME, gate_up_silu::cases(shapes)),
        (ops::NormLinear::NAME, norm_linear::cases(shapes)),
        (ops::Sample::NAME, sample::cases(shapes)),
    ]
}

/// What an op does at least.
///
/// # Errors
/// Its tables cannot be read.
pub fn work(op: &Op, tables: &Tables<'_>) -> Result<Work> {
    match op {
        Op::Embed(op) => embed::work(op, tables),
        Op::QkvRopeAppend(op) => qkv_rope_append::work(op, tables),
        Op::Attend(op) => attend::work(op, tables),
        Op::AttendStored(op) => attend_stored::work(op, tables),
        Op::Observe(op) => observe::work(op, tables),
        Op::Select(op) => select::work(op, tables),
        Op::Reside(op) => reside::work(op, tables),
        Op::Refer(op) => refer::work(op, tables),
        Op::Linear(op) => linear::work(op, tables),
        Op::Activate(op) => activate::work(op, tables),
        Op::Pack(op) => pack::work(op, tables),
        Op::Unpack(op) => unpack::work(op, tables),
        Op::Rope(op) => rope::work(op, tables),
        Op::Restore(op) => restore::work(op, tables),
        Op::LinearAdd(op) => linear_add::work(op, tables),
        Op::GateUpSilu(op) => gate_up_silu::work(op, tables),
        Op::NormLinear(op) => norm_linear::work(op, tables),
        Op::Sample(op) => sample::work(op, tables),
    }
}
