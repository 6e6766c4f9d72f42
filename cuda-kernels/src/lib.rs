//! The CUDA kernels of Longwave, the twins of the shaders: the same stems in `op/` and `shared/`, the same header and the same local names.
//!
//! Kernels are compiled at run time by NVRTC, so this crate builds without CUDA, and holds text only ([`KERNELS`], [`PARTS`]). Sources
//! include files of `part/` and nothing else, no header of a toolkit. Each `.cu` file holds one kernel, named as the file:
//!
//! ```text
//! //:threads 256                      threads of a block, which the source sees as THREADS
//! //:variant WEIGHT = F16 | Q4        the values that a launch may give to the macro WEIGHT
//! //:least 90                         the least compute capability, times ten (80 where the line is absent)
//! extern "C" __global__ void __launch_bounds__(THREADS) embed(const u32* rows, float* out, u32 pitch) { ... }
//! ```
//!
//! Parameters are pointers, `u32` and `float`, which launches give by name; a pointer to an operand that is absent is null.
//!
//! **Architecture invariant:** a leaf. Nothing in here knows a device or the contract.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The paged-KV layout of the contract as a CUDA header: a test compares its structs with those in Rust.
pub const LAYOUT: &str = include_str!("../part/layout.cuh");

/// A kernel's source, and what a launch needs to know of it.
#[derive(Debug)]
pub struct Kernel {
    /// Its file's stem, and its entry point.
    pub name: &'static str,
    /// The text.
    pub source: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// The least compute capability that it runs on, times ten. From 90 on, it is compiled for that architecture's own instructions.
    pub least: u32,
    /// Macros that a launch sets.
    pub variants: &'static [Variant],
    /// What a launch passes, in order.
    pub params: &'static [Param],
}

/// A macro of a kernel with the values that it may take.
#[derive(Debug)]
pub struct Variant {
    /// The macro.
    pub name: &'static str,
    /// Its values.
    pub values: &'static [&'static str],
}

/// A parameter of a kernel.
#[derive(Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
}

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An address on the device.
    Pointer {
        /// Whether the kernel may write there.
        writes: bool,
    },
    /// A number.
    U32,
    /// A number.
    F32,
}

/// The kernel of a name.
pub fn kernel(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

impl Kernel {
    /// Every choice of values for the kernel's macros.
    pub fn choices(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        self.variants
            .iter()
            .fold(vec![Vec::new()], |choices, variant| {
                let extend = |choice: &Vec<_>| {
                    let choice = choice.clone();
                    variant
                        .values
                        .iter()
                        .map(move |value| [&choice[..], &[(variant.name, *value)]].concat())
                };
                choices.iter().flat_map(extend).collect()
            })
    }
}
