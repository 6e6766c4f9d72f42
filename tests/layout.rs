//! Rung 0: do Rust, WGSL and CUDA agree about every word of the paged-KV layout?

use std::mem::{offset_of, size_of};

use anyhow::{Context, Result, ensure};
use longwave_contract::kv::{
    BLOCK, BlockDesc, ComponentDesc, EXACT_GROUP, Entry, GAIN_LATENTS, PAGE, PickDesc, RowDesc,
    StoreDesc, ViewDesc,
};
use longwave_contract::op::{ROPE_LOW, SampleDesc};
use longwave_shaders::{KERNELS, layout_source};
use naga::TypeInner;
use naga::proc::Layouter;

/// A struct as one of the languages lays it out: bytes, and each field with its offset.
#[derive(Debug, PartialEq)]
struct Layout {
    bytes: usize,
    fields: Vec<(String, usize)>,
}

/// What the contract says.
macro_rules! contract {
    ($type:ty: $($field:ident),*) => {
        Layout {
            bytes: size_of::<$type>(),
            fields: vec![$((stringify!($field).to_owned(), offset_of!($type, $field))),*],
        }
    };
}

fn structs() -> [(&'static str, Layout); 7] {
    [
        (
            "RowDesc",
            contract!(RowDesc: token, sequence, position, slot, view, staged, reserved),
        ),
        ("ViewDesc", contract!(ViewDesc: first, length, last, run)),
        (
            "PickDesc",
            contract!(PickDesc: row, first, candidates, keep),
        ),
        (
            "StoreDesc",
            contract!(StoreDesc: sinks, compressed, length, chosen, pages, blocks, lane, generation),
        ),
        (
            "BlockDesc",
            contract!(BlockDesc: source, index, sinks, blocks, reserved),
        ),
        (
            "ComponentDesc",
            contract!(ComponentDesc: offset, bits, step, zero),
        ),
        (
            "SampleDesc",
            contract!(SampleDesc: draw, top_k, top_p, min_p, rate, recent_first, recent, penalty, relief, reserved),
        ),
    ]
}

fn constants() -> [(&'static str, u32); 6] {
    [
        ("PAGE", PAGE),
        ("ROPE_LOW", ROPE_LOW),
        ("ENTRY_INDEX_BITS", Entry::INDEX_BITS),
        ("BLOCK", BLOCK),
        ("EXACT_GROUP", EXACT_GROUP),
        ("GAIN_LATENTS", GAIN_LATENTS),
    ]
}

#[test]
fn wgsl_lays_the_cache_out_as_the_contract_does() -> Result<()> {
    let module = naga::front::wgsl::parse_str(layout_source())?;
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx())?;
    for (name, expected) in structs() {
        let found = module
            .types
            .iter()
            .find(|(_, ty)| ty.name.as_deref() == Some(name));
        let (handle, ty) = found.with_context(|| format!("no struct {name}"))?;
        let TypeInner::Struct { members, .. } = &ty.inner else {
            anyhow::bail!("{name} is no struct");
        };
        let fields = members
            .iter()
            .map(|m| (m.name.clone().unwrap_or_default(), m.offset as usize))
            .collect();
        let found = Layout {
            bytes: layouter[handle].size as usize,
            fields,
        };
        ensure!(
            found == expected,
            "{name}: {found:?}, expected {expected:?}"
        );
    }
    for (name, expected) in constants() {
        let found = module
            .constants
            .iter()
            .find(|(_, c)| c.name.as_deref() == Some(name));
        let (_, constant) = found.with_context(|| format!("no constant {name}"))?;
        let value = match module.global_expressions[constant.init] {
            naga::Expression::Literal(naga::Literal::U32(value)) => value,
            ref other => anyhow::bail!("{name} is {other:?}"),
        };
        ensure!(value == expected, "{name} is {value}, expected {expected}");
    }
    Ok(())
}

#[test]
fn cuda_lays_the_cache_out_as_the_contract_does() -> Result<()> {
    let source = longwave_cuda_kernels::LAYOUT;
    for (name, expected) in structs() {
        let found =
            cuda_struct(source, name).with_context(|| format!("no struct {name} of u32 words"))?;
        ensure!(
            found == expected,
            "{name}: {found:?}, expected {expected:?}"
        );
    }
    for (name, expected) in constants() {
        let line = format!("constexpr u32 {name} = {expected};");
        ensure!(source.contains(&line), "no line `{line}`");
    }
    Ok(())
}

/// Reads a C struct whose fields are words or arrays of words.
fn cuda_struct(source: &str, name: &str) -> Option<Layout> {
    let (_, rest) = source.split_once(&format!("struct {name} {{"))?;
    let (body, _) = rest.split_once("};")?;
    let mut layout = Layout {
        bytes: 0,
        fields: Vec::new(),
    };
    for field in body
        .split(';')
        .map(str::trim)
        .filter(|field| !field.is_empty())
    {
        let word = field.strip_prefix("u32 ");
        let field = word.or_else(|| field.strip_prefix("float "))?;
        let (field, count) = match field.split_once('[') {
            Some((field, count)) => (field, count.strip_suffix(']')?.parse().ok()?),
            None => (field, 1),
        };
        layout.fields.push((field.to_owned(), layout.bytes));
        layout.bytes += 4 * count;
    }
    Some(layout)
}

/// What every device that runs WebGPU natively offers (storage buffers: more than WebGPU's own minimum of 8, which `fits` checks when a kernel
/// is compiled). Kernels for matrix units take more memory, and are chosen only where there is as much; for all that they do there are others.
#[test]
fn every_kernel_fits_the_smallest_device() -> Result<()> {
    for kernel in KERNELS {
        let threads: u32 = kernel.workgroup.iter().product();
        ensure!(threads <= 256, "{}: {threads} threads", kernel.name);
        let most = if kernel.needs.cooperative { 48 } else { 16 };
        ensure!(
            kernel.shared_bytes <= most << 10,
            "{}: {} bytes of workgroup memory",
            kernel.name,
            kernel.shared_bytes
        );
        let storage = kernel.bindings.len() - 1;
        ensure!(storage <= 10, "{}: {storage} storage buffers", kernel.name);
    }
    Ok(())
}
