//! Rung 0: does every CUDA kernel compile, with every choice of its macros, for the oldest architecture that it runs on and for Hopper's own
//! instructions? Needs the compiler, no GPU.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use longwave_cuda::Compiler;
use longwave_cuda_kernels::{KERNELS, Kernel};
use longwave_tests::trial;

/// Compiles one kernel with all choices.
fn compiles(compiler: &Compiler, kernel: &Kernel, architecture: &str) -> Result<()> {
    for choice in kernel.choices() {
        let values: Vec<&str> = choice.iter().map(|(_, value)| *value).collect();
        let image = compiler.compile(kernel, &values, architecture);
        let image = image.map_err(anyhow::Error::msg)?;
        ensure!(image.starts_with(b"\x7fELF"), "{choice:?}: no machine code");
    }
    Ok(())
}

fn main() -> ExitCode {
    let compiler = Compiler::open().map(Arc::new);
    let mut trials = Vec::new();
    for kernel in KERNELS {
        for architecture in ["sm_80", "sm_90a"] {
            if architecture == "sm_80" && kernel.least > 80 {
                continue;
            }
            let title = format!("{} for {architecture}", kernel.name);
            trials.push(trial::with(title, compiler.clone(), move |compiler| {
                compiles(&compiler, kernel, architecture)
            }));
        }
    }
    trial::run(trials)
}
