//! `restore`: the dispatches of its parts, with working memory between them.

use longwave_contract::op::Restore;
use longwave_contract::{BackendError, BufferId, Op, Slabs, Tensor};

use super::{Bound, Context, Dispatch, Force, MatmulKernel};

/// Working memory of the parts, which no op among them names: latents, and rows.
const WORKING: [(BufferId, usize); 2] = [(BufferId(u32::MAX - 1), 6), (BufferId(u32::MAX), 7)];

/// The working memory that stands for a tensor.
fn working(tensor: Tensor) -> Option<usize> {
    let known = WORKING.iter().find(|(buffer, _)| *buffer == tensor.buffer);
    known.map(|(_, index)| *index)
}

/// # Errors
/// As the parts, and for working memory that exceeds a binding.
pub(super) fn launch(op: &Restore, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let [(z, _), (x, _)] = WORKING;
    let (unpack, product, rope) = op.parts(z, x);
    let slabs = |tensor: Tensor| match working(tensor) {
        Some(_) => {
            Slabs::new(tensor.bytes(), 1, u64::MAX).unwrap_or_else(|| (context.slabs)(tensor))
        }
        None => (context.slabs)(tensor),
    };
    // Kernels for few rows add columns in another order: a row is to come out the same, however many are restored beside it.
    let any = context.cooperative().then_some(MatmulKernel::Cooperative);
    let inner = Context {
        slabs: &slabs,
        force: Force {
            matmul: context.force.matmul.or(any),
            ..context.force
        },
        ..*context
    };
    let ops = [
        Some(Op::from(unpack)),
        product.map(Op::from),
        Some(rope.into()),
    ];
    let mut dispatches = Vec::new();
    for part in ops.iter().flatten() {
        dispatches.extend(super::launch(part, &inner)?);
    }
    let bindings = dispatches
        .iter_mut()
        .flat_map(|dispatch| &mut dispatch.bindings);
    for (_, bound) in bindings {
        if let Bound::Tensor(tensor) = *bound
            && let Some(index) = working(tensor)
        {
            *bound = context.scratch(Restore::NAME, index, tensor.bytes())?;
        }
    }
    Ok(dispatches)
}
