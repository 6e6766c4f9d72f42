//! Latent blocks, which `refer`, `pack` and `unpack` share.

use longwave_contract::BackendError;
use longwave_contract::kv::{LatentShape, ScaleRule};
use longwave_contract::op::Tokens;

use super::{Argument, Dispatch, dispatch};

/// Columns of an exact row that a warp writes at a time.
pub(super) const EXACT_PART: u32 = 128;

/// A launch of a kernel that takes numbers of a shape besides what is given.
///
/// # Errors
/// As [`dispatch`].
pub(super) fn latent_dispatch(
    name: &str,
    variant: &[(&str, &str)],
    shape: &LatentShape,
    given: &[(&'static str, Argument)],
    grid: u32,
) -> Result<Dispatch, BackendError> {
    let references = shape.references;
    let group = if has_groups(shape) {
        shape.group.min(shape.rank)
    } else {
        shape.rank
    };
    let numbers = [
        ("cols", shape.cols),
        ("rank", shape.rank),
        ("group", group),
        ("groups", shape.rank.div_ceil(group.max(1))),
        ("words", shape.words()),
        ("stride", references.map_or(1, |found| found.stride)),
        ("references", shape.references_per_block()),
        ("neighbours", references.map_or(0, |found| found.neighbours)),
        ("exact_words", shape.exact_words()),
        ("exact_f16", shape.exact_f16.into()),
        ("parts", shape.cols.div_ceil(EXACT_PART)),
        ("ordinals_at", shape.ordinals_at()),
        ("ordinal_words", shape.ordinal_words()),
        ("scales", shape.scales()),
        ("scales_at", shape.scales_at()),
        ("code_words", shape.code_words()),
        ("codes_at", shape.codes_at()),
        ("escapes_at", shape.escapes_at()),
        ("escapes", shape.escapes),
    ];
    let kernel = longwave_cuda_kernels::kernel(name);
    let params = kernel.map_or(&[][..], |kernel| kernel.params);
    let taken = |name: &str| params.iter().any(|param| param.name == name);
    let numbers = numbers.into_iter().filter(|(name, _)| taken(name));
    let arguments: Vec<(&str, Argument)> = numbers
        .map(|(name, value)| (name, value.into()))
        .chain(given.iter().copied())
        .collect();
    dispatch(name, variant, &arguments, [grid, 1, 1])
}

/// Whether latents share scales in groups.
pub(super) fn has_groups(shape: &LatentShape) -> bool {
    matches!(shape.rule, ScaleRule::Symmetric | ScaleRule::MinMax)
}

/// The value of the macro RULE.
pub(super) fn rule(shape: &LatentShape) -> &'static str {
    match shape.rule {
        ScaleRule::Plain => "PLAIN",
        ScaleRule::Gain => "GAIN",
        ScaleRule::Symmetric => "SYMMETRIC",
        ScaleRule::MinMax => "MIN_MAX",
    }
}

/// The value of the macro NAMING, and elements of a row of the tensor that names tokens.
pub(super) fn naming(tokens: Tokens) -> (&'static str, u32) {
    match tokens {
        Tokens::All => ("EVERY", 0),
        Tokens::Listed(tokens) => ("LISTED", tokens.cols.next_multiple_of(4)),
        Tokens::Missing(_) => ("MISSING", 4),
    }
}
