//! What a device can do.

/// What kind of device a backend runs on, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU behind a virtual machine, or of an unknown kind.
    Other,
    /// The host's processor, through the CPU backend.
    Cpu,
    /// A GPU interface implemented on the host's processor, such as llvmpipe. `auto` never picks one.
    Software,
}

impl DeviceKind {
    /// The word that `devices` prints.
    pub const fn name(self) -> &'static str {
        match self {
            DeviceKind::Discrete => "discrete",
            DeviceKind::Integrated => "integrated",
            DeviceKind::Other => "other",
            DeviceKind::Cpu => "cpu",
            DeviceKind::Software => "software",
        }
    }
}

/// One shape of matrix that a device multiplies in hardware: `m x k` times `k x n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeMatrix {
    /// Rows of the result.
    pub m: u32,
    /// Columns of the result.
    pub n: u32,
    /// The shared dimension.
    pub k: u32,
    /// Whether the accumulator is 32-bit float (otherwise 16-bit).
    pub f32_accumulator: bool,
}

/// What a backend's device offers. Kernels are chosen from this and from shapes, never from a vendor's name.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// The backend's short name: `cpu`, `wgpu`, `cuda`.
    pub backend: &'static str,
    /// The device's name as its driver gives it.
    pub device: String,
    /// Driver or interface, for reports.
    pub driver: String,
    /// What kind of device it is.
    pub kind: DeviceKind,
    /// Bytes that are free for buffers, as far as that is known.
    pub memory: Option<u64>,
    /// The largest single device buffer, in bytes; larger tensors and pools are cut into [`crate::Slabs`].
    pub slab_limit: u64,
    /// Smallest and largest subgroup, where subgroup operations may be used.
    pub subgroup: Option<(u32, u32)>,
    /// Whether shaders may compute in 16-bit floats.
    pub f16: bool,
    /// Bytes of memory that a workgroup may share.
    pub workgroup_memory: u32,
    /// Threads that a workgroup may have.
    pub workgroup_threads: u32,
    /// Workgroups that one dispatch may have along an axis.
    pub workgroups_per_axis: u32,
    /// Matrix shapes that are multiplied in hardware.
    pub cooperative_matrix: Vec<CooperativeMatrix>,
    /// Whether products of many rows round what they multiply to f16, as matrix units demand: see [`crate::Op::tolerance`].
    pub half_products: bool,
    /// Elements of the heads whose stored tokens attention reads as they are, by [`crate::op::AttendStored`]; none where they have to be restored.
    pub stored_heads: &'static [u32],
    /// Whether it does so where keys have a norm.
    pub stored_norms: bool,
    /// Whether time stamps can be taken on the device.
    pub timestamps: bool,
}

impl Caps {
    /// Whether attention reads stored tokens with heads of so many elements as they are, by [`crate::op::AttendStored`]; `normed` says whether their
    /// keys have a norm.
    pub fn reads_stored(&self, head_dim: u32, normed: bool) -> bool {
        self.stored_heads.contains(&head_dim) && (self.stored_norms || !normed)
    }
}
