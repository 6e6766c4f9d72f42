//! NVRTC: from a kernel's source to machine code of one architecture.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use libloading::Library;
use longwave_cuda_kernels::{Kernel, PARTS};

use crate::library::Wanted;

const NVRTC: Wanted = Wanted {
    stem: "nvrtc",
    variable: "LONGWAVE_NVRTC",
    package: "nvidia-cuda-nvrtc",
    folders: ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"],
};

/// A program of NVRTC.
type Program = *mut c_void;

/// NVRTC's functions that are needed, as `nvrtc.h` declares them.
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    image_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    image: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
}

/// The compiler.
pub struct Compiler {
    functions: Functions,
    version: (i32, i32),
    /// Holds the functions.
    _library: Library,
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NVRTC {}.{}", self.version.0, self.version.1)
    }
}

impl Compiler {
    /// Opens the library.
    ///
    /// # Errors
    /// What is missing, and the command that brings it.
    pub fn open() -> Result<Self, String> {
        let library = NVRTC.open()?;
        macro_rules! function {
            ($name:literal) => {{
                #[expect(
                    unsafe_code,
                    reason = "functions of a library have the type that its header says"
                )]
                // SAFETY: the type is that of `nvrtc.h`, which has not changed since CUDA 11.
                let symbol = unsafe { library.get($name) };
                *symbol.map_err(|error| format!("nvrtc: {error}"))?
            }};
        }
        let functions = Functions {
            version: function!(b"nvrtcVersion"),
            create: function!(b"nvrtcCreateProgram"),
            compile: function!(b"nvrtcCompileProgram"),
            log_size: function!(b"nvrtcGetProgramLogSize"),
            log: function!(b"nvrtcGetProgramLog"),
            image_size: function!(b"nvrtcGetCUBINSize"),
            image: function!(b"nvrtcGetCUBIN"),
            destroy: function!(b"nvrtcDestroyProgram"),
        };
        let (mut major, mut minor) = (0, 0);
        #[expect(unsafe_code, reason = "a call of the library")]
        // SAFETY: the addresses of two numbers of ours.
        let code = unsafe { (functions.version)(&raw mut major, &raw mut minor) };
        if code != 0 {
            return Err(format!("nvrtc does not tell its version (error {code})"));
        }
        Ok(Compiler {
            functions,
            version: (major, minor),
            _library: library,
        })
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles a kernel with a value for each of its macros, for an architecture such as `sm_90a`, to a cubin.
    ///
    /// # Errors
    /// The compiler's log.
    pub fn compile(
        &self,
        kernel: &Kernel,
        variant: &[&str],
        architecture: &str,
    ) -> Result<Vec<u8>, String> {
        let text = |text: &str| CString::new(text).map_err(|error| error.to_string());
        let mut options = vec![
            text(&format!("--gpu-architecture={architecture}"))?,
            text("--std=c++17")?,
            text(&format!("-DTHREADS={}", kernel.threads))?,
        ];
        for (name, value) in kernel.variants.iter().zip(variant) {
            options.push(text(&format!("-D{}={value}", name.name))?);
        }
        let names = PARTS
            .iter()
            .map(|(name, _)| text(name))
            .collect::<Result<Vec<_>, _>>()?;
        let parts = PARTS
            .iter()
            .map(|(_, part)| text(part))
            .collect::<Result<Vec<_>, _>>()?;
        let (source, file) = (text(kernel.source)?, text(&format!("{}.cu", kernel.name))?);
        let (names, parts, options) = (pointers(&names), pointers(&parts), pointers(&options));
        let functions = &self.functions;
        let mut program: Program = std::ptr::null_mut();
        let size = |count: usize| c_int::try_from(count).unwrap_or(c_int::MAX);
        #[expect(unsafe_code, reason = "calls of the library")]
        // SAFETY: all strings end in a zero and outlive the program; lists are as long as said; buffers have the sizes that the library asked for;
        // the program is destroyed once, on every way out.
        unsafe {
            let code = (functions.create)(
                &raw mut program,
                source.as_ptr(),
                file.as_ptr(),
                size(parts.len()),
                parts.as_ptr(),
                names.as_ptr(),
            );
            if code != 0 {
                return Err(format!(
                    "{}: nvrtc makes no program of it (error {code})",
                    kernel.name
                ));
            }
            let code = (functions.compile)(program, size(options.len()), options.as_ptr());
            let mut bytes = 0usize;
            let result = if code == 0 {
                let mut code = (functions.image_size)(program, &raw mut bytes);
                let mut image = vec![0u8; bytes];
                if code == 0 {
                    code = (functions.image)(program, image.as_mut_ptr().cast());
                }
                match code {
                    0 if bytes > 0 => Ok(image),
                    _ => Err(format!(
                        "{}: nvrtc gives no machine code for {architecture} (error {code})",
                        kernel.name
                    )),
                }
            } else {
                let told = (functions.log_size)(program, &raw mut bytes);
                let mut log = vec![0u8; bytes.max(1)];
                if told == 0 {
                    (functions.log)(program, log.as_mut_ptr().cast());
                }
                let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
                Err(format!("{}: {}", kernel.name, log.to_string_lossy().trim()))
            };
            (functions.destroy)(&raw mut program);
            result
        }
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).collect()
}
