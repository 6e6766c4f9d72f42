//! The WGSL kernels of Longwave.
//!
//! Sources are files: `op/<op>*.wgsl` serve one op, `shared/*.wgsl` serve several, `part/*.wgsl` are imported by both. The build script
//! composes every kernel in every combination of its variants, validates it with naga, and reflects what a host must know, so that no
//! binding index, workgroup size or parameter order is typed twice.
//!
//! Directives are comment lines, so that every file stays plain WGSL to an editor:
//!
//! | line | meaning |
//! | --- | --- |
//! | `//:import part/layout` | inserts a part, once a module |
//! | `//:variant weight = part/weight_f16 \| part/weight_q4` | one kernel for each alternative, which is imported |
//! | `//:let OCTETS = 4` | a number for `repeat` |
//! | `//:repeat r = 0..8` ... `//:end` | the lines between, once for each number, with `$(r)` replaced by it |
//!
//! **Architecture invariant:** a leaf. Nothing in here knows wgpu, a device, or the contract.

/// A composed and validated compute shader.
#[derive(Debug)]
pub struct Kernel {
    /// The file's stem and the variants that were chosen: `matmul_row[weight_q4,team_subgroup]`.
    pub name: &'static str,
    /// The whole module, as naga accepts it.
    pub source: &'static str,
    /// The entry point.
    pub entry: &'static str,
    /// Threads of a workgroup.
    pub workgroup: [u32; 3],
    /// All bindings, which are in group 0, by index. Binding 0 is the uniform `params`.
    pub bindings: &'static [Binding],
    /// Names of the numbers that a pipeline may set.
    pub overrides: &'static [&'static str],
    /// Bytes of workgroup memory.
    pub shared_bytes: u32,
    /// Device features that the kernel uses.
    pub needs: Needs,
    /// Words of the `Params` struct.
    pub params_words: u32,
    /// Fields of the `Params` struct in order, each of one word.
    pub params: &'static [Param],
}

/// One binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its index in group 0.
    pub index: u32,
    /// The name of the variable.
    pub name: &'static str,
    /// What is bound there.
    pub kind: BindingKind,
}

/// What a binding takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// The uniform block of parameters.
    Params,
    /// A storage buffer that is only read.
    Read,
    /// A storage buffer that is read and written.
    ReadWrite,
}

/// One field of a kernel's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// The field's name.
    pub name: &'static str,
    /// Whether the word is an `f32`; otherwise it is a `u32`.
    pub float: bool,
}

/// Device features that a kernel uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Subgroup operations.
    pub subgroup: bool,
    /// Arithmetic in 16-bit floats.
    pub f16: bool,
    /// Matrix units, and barriers of a subgroup: subgroups of exactly 32 threads.
    pub cooperative: bool,
}

impl Kernel {
    /// The binding of this name.
    pub fn binding(&self, name: &str) -> Option<&'static Binding> {
        self.bindings.iter().find(|binding| binding.name == name)
    }
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernel of this name.
pub fn kernel(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

/// The WGSL part that declares the KV layout: a test compares it with the structs of the contract.
pub fn layout_source() -> &'static str {
    include_str!("../part/layout.wgsl")
}
