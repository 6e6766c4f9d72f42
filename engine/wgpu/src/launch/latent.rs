//! Latent blocks, which `refer`, `pack` and `unpack` share.

use longwave_contract::BackendError;
use longwave_contract::kv::{LatentShape, ScaleRule};
use longwave_contract::op::Tokens;
use longwave_shaders::Kernel;

use super::{Word, params};

/// The words of a kernel's parameters: those given, and the numbers of a shape that the kernel takes.
pub(super) fn latent_params(
    kernel: &Kernel,
    shape: &LatentShape,
    given: &[(&'static str, Word)],
) -> Result<Vec<u32>, BackendError> {
    let references = shape.references;
    let grouped = matches!(shape.rule, ScaleRule::Symmetric | ScaleRule::MinMax);
    let numbers = [
        // Hides roundings from compilers: see shaders/part/precise.wgsl.
        ("zero", 0),
        ("cols", shape.cols),
        ("rank", shape.rank),
        ("group", if grouped { shape.group } else { u32::MAX }),
        ("groups", shape.rank.div_ceil(shape.group)),
        ("rule", shape.rule as u32),
        ("words", shape.words()),
        ("stride", references.map_or(1, |found| found.stride)),
        ("references", shape.references_per_block()),
        ("neighbours", references.map_or(0, |found| found.neighbours)),
        ("exact_words", shape.exact_words()),
        ("exact_f16", u32::from(shape.exact_f16)),
        ("ordinals_at", shape.ordinals_at()),
        ("ordinal_words", shape.ordinal_words()),
        ("scales", shape.scales()),
        ("scales_at", shape.scales_at()),
        ("code_words", shape.code_words()),
        ("codes_at", shape.codes_at()),
        ("escapes_at", shape.escapes_at()),
        ("escapes", shape.escapes),
    ];
    let taken = |name: &str| kernel.params.iter().any(|param| param.name == name);
    let numbers = numbers.into_iter().filter(|(name, _)| taken(name));
    let values: Vec<(&str, Word)> = numbers
        .map(|(name, value)| (name, value.into()))
        .chain(given.iter().copied())
        .collect();
    params(kernel, &values)
}

/// How kernels are told which tokens are restored: the number of the way, and elements of a row of the tensor that names them.
pub(super) fn naming(tokens: Tokens) -> (u32, u32) {
    match tokens {
        Tokens::All => (0, 0),
        Tokens::Listed(tokens) => (1, tokens.cols.next_multiple_of(4)),
        Tokens::Missing(_) => (2, 4),
    }
}
