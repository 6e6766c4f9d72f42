//! Composes, validates and reflects every kernel; see `src/lib.rs` for the directives.

#[path = "build/compose.rs"]
mod compose;
#[path = "build/reflect.rs"]
mod reflect;

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use compose::Composed;
use reflect::Reflection;

/// Folders with kernels; `part` has what they import.
const KERNEL_FOLDERS: [&str; 2] = ["op", "shared"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for folder in KERNEL_FOLDERS.iter().chain(&["part"]) {
        println!("cargo::rerun-if-changed={folder}");
    }
    let load = |path: &str| std::fs::read_to_string(root.join(format!("{path}.wgsl"))).ok();
    let mut table = String::from("/// Every kernel, by name.\npub const KERNELS: &[Kernel] = &[\n");
    for path in kernel_paths(&root)? {
        for kernel in compose::compose(&path, &load)? {
            let reflection = reflect::reflect(&kernel)?;
            let file = out.join(format!("{}.wgsl", kernel.name));
            std::fs::write(&file, &kernel.source)?;
            write_kernel(&mut table, &kernel, &reflection, &file)?;
        }
    }
    table.push_str("];\n");
    std::fs::write(out.join("kernels.rs"), table)?;
    Ok(())
}

/// The kernels' files, `folder/stem`, sorted.
fn kernel_paths(root: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut paths = Vec::new();
    for folder in KERNEL_FOLDERS {
        for entry in std::fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if let (Some(stem), Some("wgsl")) = (stem, path.extension().and_then(|e| e.to_str())) {
                paths.push(format!("{folder}/{stem}"));
            }
        }
    }
    paths.sort();
    Ok(paths)
}

/// Writes one kernel as an element of the table.
fn write_kernel(
    table: &mut String,
    kernel: &Composed,
    reflection: &Reflection,
    file: &Path,
) -> std::fmt::Result {
    let Reflection {
        entry,
        workgroup,
        bindings,
        overrides,
        shared_bytes,
        subgroup,
        f16,
        cooperative,
        params,
    } = reflection;
    writeln!(table, "    Kernel {{")?;
    writeln!(table, "        name: {:?},", kernel.name)?;
    writeln!(
        table,
        "        source: include_str!({:?}),",
        file.display().to_string()
    )?;
    writeln!(table, "        entry: {entry:?},")?;
    writeln!(table, "        workgroup: {workgroup:?},")?;
    writeln!(table, "        bindings: &[")?;
    for (index, name, kind) in bindings {
        let kind = format!("BindingKind::{kind:?}");
        writeln!(
            table,
            "            Binding {{ index: {index}, name: {name:?}, kind: {kind} }},"
        )?;
    }
    writeln!(table, "        ],")?;
    writeln!(table, "        overrides: &{overrides:?},")?;
    writeln!(table, "        shared_bytes: {shared_bytes},")?;
    writeln!(
        table,
        "        needs: Needs {{ subgroup: {subgroup}, f16: {f16}, cooperative: {cooperative} }},"
    )?;
    writeln!(table, "        params_words: {},", params.len())?;
    writeln!(table, "        params: &[")?;
    for (name, float) in params {
        writeln!(
            table,
            "            Param {{ name: {name:?}, float: {float} }},"
        )?;
    }
    writeln!(table, "        ],")?;
    writeln!(table, "    }},")
}
