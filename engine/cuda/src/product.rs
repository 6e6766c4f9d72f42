//! cuBLASLt: products of large f16 matrices, where the library is there.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use libloading::Library;
use longwave_contract::BackendError;

use crate::fault::internal;
use crate::library::Wanted;

const CUBLAS_LT: Wanted = Wanted {
    stem: "cublasLt",
    variable: "LONGWAVE_CUBLASLT",
    package: "nvidia-cublas",
    folders: ["nvidia/cu13/lib", "nvidia/cublas/lib"],
};

/// Bytes of working memory that a product may use: what the library's documentation advises for Hopper.
pub(crate) const WORKSPACE: u64 = 32 << 20;

// Numbers of `cublasLt.h`, `cublas_api.h` and `library_types.h`.
const COMPUTE_32F: c_int = 68;
const REAL_32F: c_int = 0;
const REAL_16F: c_int = 2;
const DESC_TRANSA: c_int = 3;
static TRANSPOSED: c_int = 1;
const PREFERENCE_WORKSPACE: c_int = 1;

/// An object of the library.
type Handle = *mut c_void;
/// Creates nothing but itself, and destroys.
type Destroy = unsafe extern "C" fn(Handle) -> c_int;
/// Sets an attribute from a buffer of so many bytes.
type Set = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> c_int;

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Heuristic {
    algorithm: [u64; 8],
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// The library's functions that are needed, as `cublasLt.h` declares them.
struct Functions {
    destroy: Destroy,
    desc_create: unsafe extern "C" fn(*mut Handle, c_int, c_int) -> c_int,
    desc_set: Set,
    desc_destroy: Destroy,
    layout_create: unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> c_int,
    layout_destroy: Destroy,
    preference_create: unsafe extern "C" fn(*mut Handle) -> c_int,
    preference_set: Set,
    preference_destroy: Destroy,
    heuristic: unsafe extern "C" fn(
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        c_int,
        *mut Heuristic,
        *mut c_int,
    ) -> c_int,
    multiply: unsafe extern "C" fn(
        Handle,
        Handle,
        *const f32,
        u64,
        Handle,
        u64,
        Handle,
        *const f32,
        u64,
        Handle,
        u64,
        Handle,
        *const [u64; 8],
        u64,
        usize,
        *mut c_void,
    ) -> c_int,
}

/// The library, set up for one context.
pub(crate) struct Multiplier {
    functions: Functions,
    handle: Handle,
    /// Holds the functions.
    _library: Library,
}

impl std::fmt::Debug for Multiplier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Multiplier")
    }
}

#[expect(unsafe_code, reason = "handles of a library are raw pointers")]
// SAFETY: the library's documentation allows a handle and descriptors to be used from any thread.
unsafe impl Send for Multiplier {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for Multiplier {}

/// `y = a * weight^T`, or that added to `y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProductShape {
    /// Rows of `a` and `y`.
    pub rows: u32,
    /// Rows of the weights, columns of `y`.
    pub outputs: u32,
    /// Columns of `a` and of the weights.
    pub columns: u32,
    /// Elements from one row to the next of `a`, the weights, and `y`.
    pub pitches: [u32; 3],
    /// Whether `y` is f16 rather than f32.
    pub half: bool,
    /// Whether the product is added to `y`.
    pub add: bool,
}

/// A product whose algorithm has been chosen.
#[derive(Debug)]
pub(crate) struct Product {
    multiplier: Arc<Multiplier>,
    shape: ProductShape,
    desc: Handle,
    /// Of the weights, `a` and `y`.
    layouts: [Handle; 3],
    algorithm: [u64; 8],
}

#[expect(unsafe_code, reason = "as for Multiplier")]
// SAFETY: as for `Multiplier`.
unsafe impl Send for Product {}

impl Multiplier {
    /// Opens the library; the context must be current.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn open() -> Result<Self, String> {
        let library = CUBLAS_LT.open()?;
        macro_rules! function {
            ($name:literal) => {{
                #[expect(
                    unsafe_code,
                    reason = "functions of a library have the type that its header says"
                )]
                // SAFETY: the type is that of `cublasLt.h`, which has not changed since CUDA 11.
                let symbol = unsafe { library.get($name) };
                *symbol.map_err(|error| format!("cublasLt: {error}"))?
            }};
        }
        let create: unsafe extern "C" fn(*mut Handle) -> c_int = function!(b"cublasLtCreate");
        let functions = Functions {
            destroy: function!(b"cublasLtDestroy"),
            desc_create: function!(b"cublasLtMatmulDescCreate"),
            desc_set: function!(b"cublasLtMatmulDescSetAttribute"),
            desc_destroy: function!(b"cublasLtMatmulDescDestroy"),
            layout_create: function!(b"cublasLtMatrixLayoutCreate"),
            layout_destroy: function!(b"cublasLtMatrixLayoutDestroy"),
            preference_create: function!(b"cublasLtMatmulPreferenceCreate"),
            preference_set: function!(b"cublasLtMatmulPreferenceSetAttribute"),
            preference_destroy: function!(b"cublasLtMatmulPreferenceDestroy"),
            heuristic: function!(b"cublasLtMatmulAlgoGetHeuristic"),
            multiply: function!(b"cublasLtMatmul"),
        };
        let mut handle = std::ptr::null_mut();
        #[expect(unsafe_code, reason = "a call of the library")]
        // SAFETY: the address of a handle of ours.
        let code = unsafe { create(&raw mut handle) };
        match code {
            0 => Ok(Multiplier {
                functions,
                handle,
                _library: library,
            }),
            code => Err(format!("cublasLt does not start (error {code})")),
        }
    }
}

impl Drop for Multiplier {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "a call of the library")]
        // SAFETY: the handle is ours, and not used after.
        unsafe {
            (self.functions.destroy)(self.handle);
        }
    }
}

impl Product {
    /// Has the library choose an algorithm.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where it has none.
    pub(crate) fn choose(
        multiplier: &Arc<Multiplier>,
        shape: ProductShape,
    ) -> Result<Self, BackendError> {
        let null = std::ptr::null_mut();
        // Handles are null until they are made.
        let mut product = Product {
            multiplier: Arc::clone(multiplier),
            shape,
            desc: null,
            layouts: [null; 3],
            algorithm: [0; 8],
        };
        let functions = &multiplier.functions;
        let checked = |what: &str, code: c_int| match code {
            0 => Ok(()),
            code => Err(internal(format!(
                "cublasLt: {what} of {shape:?} (error {code})"
            ))),
        };
        let (rows, outputs, columns) = (
            u64::from(shape.rows),
            u64::from(shape.outputs),
            u64::from(shape.columns),
        );
        let out = if shape.half { REAL_16F } else { REAL_32F };
        // The library counts matrices by columns: a matrix of rows is its transpose.
        let [a, weight, y] = shape.pitches.map(i64::from);
        let layouts = [
            (REAL_16F, columns, outputs, weight),
            (REAL_16F, columns, rows, a),
            (out, outputs, rows, y),
        ];
        let workspace = WORKSPACE;
        let mut preference = null;
        let mut found = Heuristic::default();
        let mut count = 0;
        #[expect(unsafe_code, reason = "calls of the library")]
        // SAFETY: handles are used once they were made, attributes are given with their sizes, results have room for the one that is asked for.
        unsafe {
            let code = (functions.desc_create)(&raw mut product.desc, COMPUTE_32F, REAL_32F);
            checked("a descriptor", code)?;
            let code = (functions.desc_set)(
                product.desc,
                DESC_TRANSA,
                (&raw const TRANSPOSED).cast(),
                size_of::<c_int>(),
            );
            checked("a transposition", code)?;
            for (handle, (kind, rows, cols, pitch)) in product.layouts.iter_mut().zip(layouts) {
                let code = (functions.layout_create)(handle, kind, rows, cols, pitch);
                checked("a layout", code)?;
            }
            checked(
                "a preference",
                (functions.preference_create)(&raw mut preference),
            )?;
            let set = (functions.preference_set)(
                preference,
                PREFERENCE_WORKSPACE,
                (&raw const workspace).cast(),
                size_of::<u64>(),
            );
            let [weight, a, y] = product.layouts;
            let told = (functions.heuristic)(
                multiplier.handle,
                product.desc,
                weight,
                a,
                y,
                y,
                preference,
                1,
                &raw mut found,
                &raw mut count,
            );
            (functions.preference_destroy)(preference);
            checked("the working memory", set)?;
            checked("the choice", told)?;
        }
        if count < 1 || found.state != 0 {
            return Err(internal(format!("cublasLt has no algorithm for {shape:?}")));
        }
        product.algorithm = found.algorithm;
        Ok(product)
    }

    /// Queues the product on a stream, with [`WORKSPACE`] bytes at `workspace`.
    ///
    /// # Errors
    /// [`BackendError::Internal`] with the library's number.
    pub(crate) fn launch(
        &self,
        [a, weight, y]: [u64; 3],
        workspace: u64,
        stream: *mut c_void,
    ) -> Result<(), BackendError> {
        let (alpha, beta) = (1.0f32, if self.shape.add { 1.0f32 } else { 0.0 });
        let [weight_layout, a_layout, y_layout] = self.layouts;
        #[expect(unsafe_code, reason = "a call of the library")]
        // SAFETY: descriptors and algorithm are of one choice; the matrices lie in buffers that the plan holds and are of the shape that it says.
        let code = unsafe {
            (self.multiplier.functions.multiply)(
                self.multiplier.handle,
                self.desc,
                &raw const alpha,
                weight,
                weight_layout,
                a,
                a_layout,
                &raw const beta,
                y,
                y_layout,
                y,
                y_layout,
                &raw const self.algorithm,
                workspace,
                WORKSPACE as usize,
                stream,
            )
        };
        match code {
            0 => Ok(()),
            code => Err(internal(format!(
                "cublasLt: {:?} (error {code})",
                self.shape
            ))),
        }
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        let functions = &self.multiplier.functions;
        #[expect(unsafe_code, reason = "calls of the library")]
        // SAFETY: the handles are ours or null, and not used after.
        unsafe {
            for layout in self.layouts {
                if !layout.is_null() {
                    (functions.layout_destroy)(layout);
                }
            }
            if !self.desc.is_null() {
                (functions.desc_destroy)(self.desc);
            }
        }
    }
}
