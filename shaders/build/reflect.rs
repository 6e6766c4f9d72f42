//! Validation, and what a host must know of a module.

use std::error::Error;

use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Module, Scalar, ScalarKind, StorageAccess, TypeInner};

use crate::compose::Composed;

/// Threads that a workgroup may have on every device.
const MAX_THREADS: u32 = 256;
/// Bytes of workgroup memory that every device has.
const MAX_SHARED: u32 = 16 << 10;
/// Bytes of workgroup memory that devices with matrix units have.
const MAX_SHARED_COOPERATIVE: u32 = 48 << 10;
/// Words of a kernel's parameters.
const MAX_PARAMS: usize = 64;

/// The kind of a binding, named as in `src/lib.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Params,
    Read,
    ReadWrite,
}

/// What a host must know; the fields are those of `Kernel` in `src/lib.rs`.
#[derive(Debug)]
pub struct Reflection {
    pub entry: String,
    pub workgroup: [u32; 3],
    pub bindings: Vec<(u32, String, Kind)>,
    pub overrides: Vec<String>,
    pub shared_bytes: u32,
    pub subgroup: bool,
    pub f16: bool,
    pub cooperative: bool,
    pub params: Vec<(String, bool)>,
}

/// Parses, validates and reflects a module.
pub fn reflect(kernel: &Composed) -> Result<Reflection, Box<dyn Error>> {
    let module = naga::front::wgsl::parse_str(&kernel.source).map_err(|error| {
        let line = error.location(&kernel.source).map(|at| at.line_number);
        located(kernel, line, &error.emit_to_string(&kernel.source))
    })?;
    let needs = validate(kernel, &module)?;
    let fail = |what: String| Box::<dyn Error>::from(format!("{}: {what}", kernel.name));
    let [entry] = module.entry_points.as_slice() else {
        return Err(fail("a kernel has one entry point".into()));
    };
    let [x, y, z] = entry.workgroup_size;
    if x > MAX_THREADS || y != 1 || z != 1 {
        return Err(fail(format!("a workgroup of {x} x {y} x {z} threads")));
    }
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx())?;
    let mut reflection = Reflection {
        entry: entry.name.clone(),
        workgroup: entry.workgroup_size,
        bindings: Vec::new(),
        overrides: module
            .overrides
            .iter()
            .filter_map(|(_, o)| o.name.clone())
            .collect(),
        shared_bytes: 0,
        subgroup: needs.contains(Capabilities::SUBGROUP),
        f16: needs.contains(Capabilities::SHADER_FLOAT16),
        cooperative: needs.contains(Capabilities::COOPERATIVE_MATRIX),
        params: Vec::new(),
    };
    for (_, variable) in module.global_variables.iter() {
        if variable.space == AddressSpace::WorkGroup {
            reflection.shared_bytes += layouter[variable.ty].size;
        }
        let (Some(binding), Some(name)) = (&variable.binding, &variable.name) else {
            continue;
        };
        if binding.group != 0 {
            return Err(fail(format!("`{name}` is not in group 0")));
        }
        let kind = match variable.space {
            AddressSpace::Uniform => Kind::Params,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => {
                Kind::ReadWrite
            }
            AddressSpace::Storage { .. } => Kind::Read,
            _ => return Err(fail(format!("`{name}` is neither uniform nor storage"))),
        };
        if (kind == Kind::Params) != (binding.binding == 0) {
            return Err(fail(format!("`{name}`: binding 0 is the uniform `params`")));
        }
        if kind == Kind::Params {
            reflection.params = params(&module, &module.types[variable.ty].inner)
                .ok_or_else(|| fail("`params` is a struct of at most 64 u32 and f32".into()))?;
        }
        reflection
            .bindings
            .push((binding.binding, name.clone(), kind));
    }
    reflection.bindings.sort_by_key(|(index, _, _)| *index);
    if reflection
        .bindings
        .iter()
        .enumerate()
        .any(|(at, (index, _, _))| at != *index as usize)
    {
        return Err(fail("bindings are numbered from 0 without gaps".into()));
    }
    let most = match reflection.cooperative {
        true => MAX_SHARED_COOPERATIVE,
        false => MAX_SHARED,
    };
    if reflection.shared_bytes > most {
        return Err(fail(format!(
            "{} bytes of workgroup memory",
            reflection.shared_bytes
        )));
    }
    Ok(reflection)
}

/// Validates with as few capabilities as suffice, which are returned.
fn validate(kernel: &Composed, module: &Module) -> Result<Capabilities, Box<dyn Error>> {
    // `unpack2x16float` is part of every device that wgpu calls compliant.
    let base = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let (f16, subgroup) = (Capabilities::SHADER_FLOAT16, Capabilities::SUBGROUP);
    let matrices =
        base | f16 | subgroup | Capabilities::SUBGROUP_BARRIER | Capabilities::COOPERATIVE_MATRIX;
    let needs = [
        base,
        base | subgroup,
        base | f16,
        base | f16 | subgroup,
        matrices,
    ];
    let mut last = None;
    for capabilities in needs {
        match Validator::new(ValidationFlags::all(), capabilities).validate(module) {
            Ok(_) => return Ok(capabilities),
            Err(error) => last = Some(error),
        }
    }
    let Some(error) = last else {
        return Ok(base);
    };
    let line = error.location(&kernel.source).map(|at| at.line_number);
    Err(located(kernel, line, &error.emit_to_string(&kernel.source)))
}

/// The fields of a struct of words: name, and whether it is a float.
fn params(module: &Module, inner: &TypeInner) -> Option<Vec<(String, bool)>> {
    let TypeInner::Struct { members, .. } = inner else {
        return None;
    };
    if members.len() > MAX_PARAMS {
        return None;
    }
    members
        .iter()
        .map(|member| match module.types[member.ty].inner {
            TypeInner::Scalar(Scalar { kind, width: 4 }) => match kind {
                ScalarKind::Uint => Some((member.name.clone()?, false)),
                ScalarKind::Float => Some((member.name.clone()?, true)),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// An error with the file and line that a line of the composed module comes from.
fn located(kernel: &Composed, line: Option<u32>, what: &str) -> Box<dyn Error> {
    let place = line
        .and_then(|line| kernel.places.get(line as usize - 1))
        .map_or_else(String::new, |place| format!("{place}: "));
    format!("{place}{}\n{what}", kernel.name).into()
}
