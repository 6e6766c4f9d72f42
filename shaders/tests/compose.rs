//! The composer by itself: what directives do, and where errors point.

#[path = "../build/compose.rs"]
mod compose;

use compose::{ComposeError, Composed, compose};

const HEADER: &str = "// What: w\n// Contract: c\n// Grid: g\n// Shared: s\n// Numerics: n\n";

fn run(kernel: &str, parts: &[(&str, &str)]) -> Result<Vec<Composed>, ComposeError> {
    let load = |path: &str| {
        if path == "op/test" {
            return Some(format!("{HEADER}{kernel}"));
        }
        let part = parts.iter().find(|(name, _)| *name == path);
        part.map(|(_, text)| text.to_string())
    };
    compose("op/test", &load)
}

fn body(composed: &Composed) -> &str {
    composed.source.strip_prefix(HEADER).unwrap_or_default()
}

fn message(result: Result<Vec<Composed>, ComposeError>) -> String {
    result.expect_err("the kernel is wrong").to_string()
}

#[test]
fn a_part_is_imported_once() {
    let parts = [("part/a", "//:import part/b\na\n"), ("part/b", "b\n")];
    let kernels = run("//:import part/a\n//:import part/b\nend\n", &parts).expect("composes");
    assert_eq!(body(&kernels[0]), "b\na\nend\n");
    assert_eq!(kernels[0].name, "test");
}

#[test]
fn variants_multiply_and_name_the_kernel() {
    let parts = [
        ("part/a", "a\n"),
        ("part/b", "b\n"),
        ("part/c", "c\n"),
        ("part/d", "d\n"),
    ];
    let kernels = run(
        "//:variant x = part/a | part/b\n//:variant y = part/c | part/d\n",
        &parts,
    );
    let kernels = kernels.expect("composes");
    let found: Vec<_> = kernels.iter().map(|k| (k.name.as_str(), body(k))).collect();
    let expected = [
        ("test[a,c]", "a\nc\n"),
        ("test[a,d]", "a\nd\n"),
        ("test[b,c]", "b\nc\n"),
        ("test[b,d]", "b\nd\n"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn repeats_nest_and_use_the_numbers_of_parts() {
    let kernel =
        "//:import part/n\n//:repeat i = 0..N\n//:repeat j = 1..3\nx$(i)_$(j)\n//:end\n//:end\n";
    let kernels = run(kernel, &[("part/n", "//:let N = 2\n")]).expect("composes");
    assert_eq!(body(&kernels[0]), "x0_1\nx0_2\nx1_1\nx1_2\n");
}

#[test]
fn lines_remember_where_they_come_from() {
    let kernels = run("//:import part/a\nafter\n", &[("part/a", "one\ntwo\n")]).expect("composes");
    let places: Vec<_> = kernels[0].places[5..]
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        "shaders/part/a.wgsl:1",
        "shaders/part/a.wgsl:2",
        "shaders/op/test.wgsl:7",
    ];
    assert_eq!(places, expected);
}

#[test]
fn errors_name_file_and_line() {
    let missing = message(run("//:import part/none\n", &[]));
    assert_eq!(
        missing,
        "shaders/op/test.wgsl:6: there is no file shaders/part/none.wgsl"
    );
    let open = message(run("\n//:repeat i = 0..2\n", &[]));
    assert_eq!(open, "shaders/op/test.wgsl:7: `repeat` without `end`");
    let unknown = message(run("//:import part/a\n", &[("part/a", "\n//:wish\n")]));
    assert_eq!(
        unknown,
        "shaders/part/a.wgsl:2: there is no directive `wish`"
    );
    let header = message(compose("op/test", &|_| {
        Some("// What: w\nfn main() {}\n".into())
    }));
    assert_eq!(
        header,
        "shaders/op/test.wgsl:2: a kernel's line 2 begins with `// Contract: `"
    );
}
