//! Lists the kernels in `op/` and `shared/` with what launches need to know of them, which is read from the sources themselves.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let root = Path::new(&root);
    let mut out = String::from("/// Every kernel, by name.\npub static KERNELS: &[Kernel] = &[\n");
    for folder in ["op", "shared"] {
        println!("cargo::rerun-if-changed={folder}");
        for file in files(&root.join(folder), "cu")? {
            let text = fs::read_to_string(&file)?;
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let entry = kernel(&stem, &text).map_err(|why| format!("{}: {why}", file.display()))?;
            writeln!(
                out,
                "Kernel {{ name: {stem:?}, source: include_str!({file:?}), {entry} }},"
            )?;
        }
    }
    out.push_str("];\n\n/// What the kernels include: the name in `#include`, and the text.\npub static PARTS: &[(&str, &str)] = &[\n");
    println!("cargo::rerun-if-changed=part");
    for file in files(&root.join("part"), "cuh")? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        writeln!(
            out,
            "({:?}, include_str!({file:?})),",
            format!("part/{name}")
        )?;
    }
    out.push_str("];\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("kernels.rs"), out)?;
    Ok(())
}

/// The files of a folder with this extension, by name.
fn files(folder: &Path, extension: &str) -> io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The fields of a kernel that its directives and its signature give.
fn kernel(stem: &str, text: &str) -> Result<String, String> {
    let (mut threads, mut least, mut variants) = (None, 80, String::new());
    for line in text.lines() {
        let Some(directive) = line.strip_prefix("//:") else {
            continue;
        };
        let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
        match word {
            "threads" => threads = Some(rest.trim().parse::<u32>().map_err(|e| e.to_string())?),
            "least" => least = rest.trim().parse::<u32>().map_err(|e| e.to_string())?,
            "variant" => {
                let (name, values) = rest.split_once('=').ok_or("a variant has no values")?;
                let values: Vec<&str> = values.split('|').map(str::trim).collect();
                let _ = write!(
                    variants,
                    "Variant {{ name: {:?}, values: &{values:?} }}, ",
                    name.trim()
                );
            }
            other => return Err(format!("there is no directive `{other}`")),
        }
    }
    let threads = threads.ok_or("no line `//:threads N`")?;
    let mut entries = text.split("extern \"C\" __global__");
    let signature = entries
        .nth(1)
        .ok_or("no `extern \"C\" __global__` function")?;
    if entries.next().is_some() {
        return Err("more than one kernel".into());
    }
    // The bounds' parentheses come first, then the parameters'.
    let bounds = "__launch_bounds__(THREADS";
    let signature = signature
        .trim_start()
        .strip_prefix("void ")
        .ok_or("a kernel returns nothing")?;
    let signature = signature
        .strip_prefix(bounds)
        .and_then(|rest| rest.split_once(')'))
        .ok_or("no `__launch_bounds__(THREADS)` after `void`")?
        .1;
    let (name, rest) = signature.split_once('(').ok_or("no parameters")?;
    if name.trim() != stem {
        return Err(format!("the kernel is called {}", name.trim()));
    }
    let (list, _) = rest.split_once(')').ok_or("parameters do not end")?;
    let mut params = String::new();
    for param in list.split(',') {
        let name = param.rsplit([' ', '*']).next().unwrap_or_default().trim();
        let words: Vec<&str> = param.split_whitespace().collect();
        let kind = match (param.contains('*'), words.as_slice()) {
            (true, words) => format!("Pointer {{ writes: {} }}", !words.contains(&"const")),
            (false, ["u32", _]) => "U32".into(),
            (false, ["float", _]) => "F32".into(),
            _ => {
                return Err(format!(
                    "parameter `{}` is no pointer, u32 or float",
                    param.trim()
                ));
            }
        };
        let _ = write!(params, "Param {{ name: {name:?}, kind: Kind::{kind} }}, ");
    }
    Ok(format!(
        "threads: {threads}, least: {least}, variants: &[{variants}], params: &[{params}]"
    ))
}
